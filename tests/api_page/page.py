"""The page: one section for each public name, with what its docstring says."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any, NamedTuple

from docstring_parser import DocstringStyle, ParseError, parse
from docstring_parser.google import DEFAULT_SECTIONS, GoogleParser, Section, SectionType

import dynatrain
from checkout import ROOT
from dynatrain.join import join
from dynatrain.planning import (
    Bottleneck,
    CellOfTensor,
    Egress,
    Explanation,
    Model,
    Slot,
    Transfer,
    explain,
    load_model,
    model_of,
    topology,
)
from dynatrain.planning import page as page_of_plan

PAGE = ROOT / "docs/reference/api.md"
HEAD = """# API

Every public name of `dynatrain`, with what its docstring says; `help(dynatrain.init)` shows the
same. A test holds this page against the docstrings; `make api` writes it anew. How the names go
together is in the [guide](../guide/README.md).
"""


class Group(NamedTuple):
    """Names that belong together, and where the manual speaks of them."""

    title: str
    manual: str
    names: tuple[str, ...]
    elsewhere: tuple[Any, ...] = ()  #: those that are imported from a module of their own


_GUIDE = "../guide/README.md"
_SCRIPT = f"[What makes a script switchable]({_GUIDE}#what-makes-a-script-switchable)"
_RULES = f"[The rules of `build`]({_GUIDE}#the-rules-of-build)"
_ERRORS = f"[When something is wrong]({_GUIDE}#when-something-is-wrong)"
GROUPS = (
    Group(
        "The job",
        _SCRIPT,
        ("init", "switch_parallelism", "fingerprint", "current_session", "Session"),
    ),
    Group("Elastic jobs", "[elastic jobs](../guide/elastic.md)", (), (join,)),
    Group(
        "Layouts and worlds",
        f"[Groups and meshes]({_GUIDE}#groups-and-meshes-of-a-frameworks-own)",
        ("Layout", "World"),
    ),
    Group("The state", _RULES, ("TrainState", "Stateful")),
    Group("Data", _SCRIPT, ("ElasticLoader", "ElasticSampler")),
    Group(
        "What a switch says of itself",
        f"[The report]({_GUIDE}#the-report), [its JSON](json.md#switch-report)",
        ("SwitchReport", "PreparedSwitch", "Span"),
    ),
    Group(
        "Planning on paper",
        "`dynatrain plan --help`, [its JSON](json.md#plan)",
        ("plan", "PlanReport", "RankPlan", "TensorSpec", "Topology"),
        (
            *(load_model, model_of, Model, Slot, topology, Egress, Bottleneck),
            *(page_of_plan, explain, Explanation, CellOfTensor, Transfer),
        ),
    ),
    Group("Settings", "[transports](../design/transport.md)", ("Nccl", "__version__")),
    Group(
        "Errors",
        _ERRORS,
        (
            *("Error", "LayoutError", "StaleStateError", "BudgetError", "TransportError"),
            *("DeviceError", "InternalError"),
        ),
    ),
)
#: Nobody but the library makes these: no constructor is promised.
MADE_BY_THE_LIBRARY = (
    "Session",
    "World",
    "SwitchReport",
    "PreparedSwitch",
    "Span",
    "PlanReport",
    "RankPlan",
)
#: What one part of the library calls of another, by class.
INNER = {
    "Session": {"start", "place_kept"},
    "World": {
        *("at_epoch", "retire", "withhold", "give_back"),
        *("as_torch_sees_it", "become_default", "cease_as_default"),
    },
    "TrainState": {
        *("stateful_objects", "is_per_rank", "named_modules", "shared_objects"),
        *("per_rank_objects", "note_present", "is_of_present", "retire"),
    },
    "Layout": {"native"},
}
_ROLE = re.compile(r":\w+:`~?([^`]+)`")
#: What is raised may be said in a sentence, without a class before it.
_SENTENCES = GoogleParser(
    [
        *(one for one in DEFAULT_SECTIONS if one.title != "Raises"),
        Section("Raises", "raises", SectionType.SINGULAR_OR_MULTIPLE),
    ]
)
_LINE_LENGTH = 88
_HEADINGS = {"param": "Args", "attribute": "Attributes"}


def page() -> str:
    """Reads all docstrings and returns the page."""
    parts = [HEAD]
    for group in GROUPS:
        parts.append(f"\n## {group.title}\n\nSee {group.manual}.\n")
        parts += [_section(name, getattr(dynatrain, name)) for name in group.names]
        parts += [_elsewhere(item) for item in group.elsewhere]
    return "".join(parts)


def _section(name: str, item: Any) -> str:
    if isinstance(item, str):
        return f"\n### `{name}`\n\nThe version of the package, as text.\n"
    made_by_scripts = name not in MADE_BY_THE_LIBRARY and _has_arguments(item)
    code = _code(_signature(f"dynatrain.{name}", item)) if made_by_scripts else ""
    text = f"\n### `{name}`\n\n{code}{told(item)}"
    if inspect.isclass(item):
        text += "".join(_member(name, member, value) for member, value in _members(name, item))
    return text


def _elsewhere(item: Any) -> str:
    name, module = item.__name__, item.__module__
    package = module.rpartition(".")[0]
    if getattr(sys.modules[package], name, None) is item:
        module = package
    code = _code(f"from {module} import {name}\n\n{_signature(name, item)}")
    return f"\n### `{name}`\n\n{code}{told(item)}"


def _has_arguments(item: Any) -> bool:
    """Whether the signature of ``item`` is its own: errors take a message, protocols nothing."""
    is_error = inspect.isclass(item) and issubclass(item, BaseException)
    return not is_error and not getattr(item, "_is_protocol", False)


class _Bare(str):
    """An annotation that is shown as it was written."""

    def __repr__(self) -> str:
        return str(self)


def _signature(name: str, item: Any) -> str:
    """A call as it is declared, one argument per line when it is long."""
    found = inspect.signature(item)
    arguments = [
        one.replace(annotation=_Bare(one.annotation))
        for one in found.parameters.values()
        if one.name != "self"
    ]
    returned = found.return_annotation
    if inspect.isclass(item):
        returned = inspect.Signature.empty
    elif isinstance(returned, str):
        returned = _Bare(returned)
    shown = str(found.replace(parameters=arguments, return_annotation=returned))
    if len(name + shown) <= _LINE_LENGTH:
        return name + shown
    lines: list[str] = []
    for one in arguments:
        if one.kind is one.KEYWORD_ONLY and "*" not in lines:
            lines.append("*")
        lines.append(str(one))
    returns = "" if returned is inspect.Signature.empty else f" -> {returned}"
    return f"{name}(\n    " + ",\n    ".join(lines) + f",\n){returns}"


def _members(name: str, item: type) -> list[tuple[str, Any]]:
    """Public methods and properties that the library defines, in the order of the source."""
    found: dict[str, Any] = {}
    for base in item.__mro__:
        if base.__module__.split(".")[0] != "dynatrain":
            continue
        for member, value in vars(base).items():
            documented = inspect.isfunction(value) or isinstance(value, (property, classmethod))
            if documented and not member.startswith("_") and member not in INNER.get(name, ()):
                found.setdefault(member, value)
    return list(found.items())


def _member(owner: str, name: str, value: Any) -> str:
    if isinstance(value, property):
        kind = inspect.signature(value.fget).return_annotation
        return f"\n#### `{owner}.{name}: {kind}`\n\n{told(value)}"
    code = _code(_signature(name, getattr(getattr(dynatrain, owner), name)))
    return f"\n#### `{owner}.{name}`\n\n{code}{told(value)}"


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n\n"


def told(item: Any) -> str:
    """What a docstring says: its text, then arguments, what comes back, and errors."""
    text = inspect.getdoc(item) or ""
    try:
        doc = parse(text, style=DocstringStyle.GOOGLE)
    except ParseError:
        doc = _SENTENCES.parse(text)
    texts = [_markdown(text) for text in (doc.short_description, doc.long_description) if text]
    parts = ["\n\n".join(texts) + "\n"]
    for kind, heading in _HEADINGS.items():
        rows = [
            f"- `{one.arg_name}`: {_in_a_line(one.description)}"
            for one in doc.params
            if one.args[0] == kind
        ]
        parts += _listed(heading, rows)
    if doc.returns is not None:
        parts.append(f"\n**Returns** {_in_a_line(doc.returns.description)}\n")
    parts += _listed("Raises", [_raised(one.type_name, one.description) for one in doc.raises])
    return "".join(parts)


def _listed(heading: str, rows: list[str]) -> list[str]:
    return [f"\n**{heading}**\n\n" + "\n".join(rows) + "\n"] if rows else []


def _raised(kind: str | None, description: str | None) -> str:
    named = kind is not None and kind in dynatrain.__all__
    shown = f"`{kind}`" if named else _markdown(kind or "")
    return f"- {shown}: {_in_a_line(description)}" if kind else f"- {_in_a_line(description)}"


def _in_a_line(text: str | None) -> str:
    return " ".join(_markdown(text or "").split())


def _markdown(text: str) -> str:
    return _ROLE.sub(r"`\1`", text).replace("``", "`")
