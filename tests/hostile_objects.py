"""Objects that raise, or answer with nonsense, whatever they are asked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch


class UnspeakableError(RuntimeError):
    """What hostile objects raise; it cannot be shown either."""

    def __str__(self):
        raise KeyError("no text")


def refuse(self, *_args, **_kwargs):
    raise UnspeakableError


ASKED = (
    "index bool eq ne lt le gt ge hash repr str len iter int float contains getitem bytes format "
    "fspath"
)
METHODS = {f"__{name}__": refuse for name in ASKED.split()}
Raising = type("Raising", (), METHODS)
RaisingInt = type("RaisingInt", (int,), METHODS)
RaisingFloat = type("RaisingFloat", (float,), METHODS)
RaisingText = type("RaisingText", (str,), METHODS)
RaisingList = type("RaisingList", (list,), METHODS)
RaisingDict = type("RaisingDict", (dict,), {**METHODS, "items": refuse, "keys": refuse})
LyingIndex = type("LyingIndex", (), {"__index__": lambda self: "two"})


class Evasive:
    """Has no attribute, not even a class."""

    def __getattribute__(self, name):
        raise UnspeakableError


class EndlessMapping(Mapping):
    """Says that it has names, and has none."""

    def __getitem__(self, key):
        raise UnspeakableError

    def __iter__(self):
        raise UnspeakableError

    def __len__(self):
        return 3


class Metaclass(type):
    """Its classes have no name."""

    @property
    def __name__(cls):
        raise UnspeakableError


class Nameless(metaclass=Metaclass):
    """An object of a class without a name."""


def objects():
    """One of each; by words, as some cannot be shown."""
    return {
        "raising": Raising(),
        "raising int": RaisingInt(2),
        "raising float": RaisingFloat(20.0),
        "raising text": RaisingText("dp=1"),
        "raising list": RaisingList([1, 2]),
        "raising dict": RaisingDict(a="b"),
        "a list of them": [Raising(), Raising()],
        "a dict of them": {"a": Raising()},
        "a text as a name": {"a": RaisingText("b")},
        "lying index": LyingIndex(),
        "evasive": Evasive(),
        "endless mapping": EndlessMapping(),
        "nameless": Nameless(),
        "array": np.array([2]),
        "arrays": np.array([[1, 2], [3, 4]]),
        "array of none": np.array([]),
        "float of numpy": np.float64(2.5),
        "number of numpy that is none": np.float64("nan"),
        "bool of numpy": np.True_,
        "text of numpy": np.str_("a\ud800b"),
        "tensor": torch.tensor(2.5),
        "tensors": torch.tensor([1, 2]),
        "tensor without memory": torch.tensor(2, device="meta"),
        "bytes": bytearray(b"dp=1"),
        "class": Raising,
        "not implemented": NotImplemented,
        "ellipsis": ...,
    }
