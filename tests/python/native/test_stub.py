"""The stub and the module: the same names, kinds and parameters.

mypy believes the stub, and nobody else reads what the module really takes. (mypy's own stubtest
takes half a minute for this, and complains of every class that pybind11 makes.)
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from dynatrain import _native

STUB = Path(_native.__file__).parent / "_native.pyi"
# What an object of Python does not have anyway; the binding adds __repr__ and pickling by itself.
OPERATORS = {"__init__", "__len__", "__eq__", "__hash__", "__iter__", "__getitem__", "__call__"}
# The binding takes the axes as **kwargs, to name the one that is wrong.
UNCHECKED_PARAMETERS = {"Layout.__init__"}


def is_promised(name):
    return name in OPERATORS or not name.startswith("_")


def stub_parameters(function):
    arguments = function.args
    positional = [a.arg for a in [*arguments.posonlyargs, *arguments.args] if a.arg != "self"]
    num_required = len(positional) - min(len(arguments.defaults), len(positional))
    parameters = [(name, i >= num_required) for i, name in enumerate(positional)]
    return parameters + [
        (a.arg, default is not None)
        for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]


def stub_names():
    """Kind and parameters of everything in the stub, by dotted name."""
    found = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = ("function", stub_parameters(node))
        elif isinstance(node, ast.AnnAssign):
            found[node.target.id] = ("value", None)
        elif isinstance(node, ast.ClassDef):
            found[node.name] = ("class", [base.id for base in node.bases])
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    found[f"{node.name}.{member.name}"] = stub_member(member)
    return found


def stub_member(function):
    decorators = {getattr(decorator, "id", None) for decorator in function.decorator_list}
    if "property" in decorators:
        return "property", None
    kind = "static method" if "staticmethod" in decorators else "method"
    return kind, stub_parameters(function)


def split(text):
    """Splits a list of parameters at the commas that no bracket holds."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[({") - (character in "])}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def module_parameters(function):
    """Parameters as pybind11 writes them into the first line of the docstring."""
    signature = re.match(r"\w+\((.*)\) -> ", function.__doc__)
    assert signature is not None, function.__doc__
    parts = [part for part in split(signature.group(1)) if not re.match(r"self\b", part)]
    return [(re.split(r"[:\s=]", part)[0], " = " in part) for part in parts]


def module_names():
    """Kind and parameters of everything in the module, by dotted name."""
    found = {"__version__": ("value", None)}
    for name, value in vars(_native).items():
        if isinstance(value, type):
            bases = [
                base.__name__ for base in value.__bases__ if base.__module__ == value.__module__
            ]
            found[name] = ("class", bases)
            for member in vars(value):
                if is_promised(member):
                    found.update(module_member(value, member))
        elif is_promised(name):
            found[name] = ("function", module_parameters(value))
    return found


def module_member(cls, name):
    raw, dotted = vars(cls)[name], f"{cls.__name__}.{name}"
    if isinstance(raw, property):
        return {dotted: ("property", None)}
    if name == "__init__" and "self:" not in raw.__doc__:  # cannot be made from Python
        return {}
    kind = "static method" if isinstance(raw, staticmethod) else "method"
    return {dotted: (kind, module_parameters(getattr(cls, name)))}


def as_compared(names):
    """Operators take what Python gives them; only their presence is compared."""
    return {
        name: (kind, None)
        if name in UNCHECKED_PARAMETERS or re.search(r"\.__(?!init)", name)
        else (kind, parameters)
        for name, (kind, parameters) in names.items()
    }


# A name that only the stub has is an error that no type checker finds; one that only the module has
# cannot be used under a type checker.
def test_stub_and_module_have_the_same_names_and_kinds():
    stub, module = stub_names(), module_names()

    assert len(stub) > 90
    assert {name: kind for name, (kind, _) in stub.items()} == {
        name: kind for name, (kind, _) in module.items()
    }


# A parameter that was renamed on one side breaks every call by keyword.
def test_stub_and_module_take_the_same_parameters():
    stub, module = as_compared(stub_names()), as_compared(module_names())

    differing = {
        n: (stub[n], module[n]) for n in stub.keys() & module.keys() if stub[n] != module[n]
    }
    assert differing == {}
