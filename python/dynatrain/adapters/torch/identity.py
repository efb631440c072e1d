"""One object in several places of an optimizer: a learning rate of two groups, a count of slots.

What is written to it in one place is read in the others. So the target has one object where the
source has one, and where build made one that others may hold as well, it is that.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from copy import deepcopy
from enum import Enum
from numbers import Number
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from dynatrain._errors import LayoutError
from dynatrain.adapters.torch.meaning import difference
from dynatrain.adapters.torch.trees import SEQUENCES, Mapped
from dynatrain.train_state import TrainState

#: What nobody can write to.
_FIXED = (
    type(None),
    Number,
    Enum,
    str,
    bytes,
    type,
    torch.dtype,
    torch.device,
    torch.Size,
    Mapped,
)


class Copies:
    """Values of the source as a target holds them.

    Ranks hand over objects of their own: two of different ranks are one where they are at the same
    first place and mean the same.

    Args:
        state: the target.
        places: where each value of the source is first, by its id.
    """

    def __init__(self, state: TrainState, places: Mapping[int, Hashable]) -> None:
        self._state = state
        self._places = places
        self._memo: dict[int, Any] = {}
        self._given: dict[Hashable, list[tuple[Any, Any]]] = {}
        self._written: set[int] = set()

    def of(self, value: Any, there: Any) -> Any:
        """The target's object for ``value``, which may be ``there``, what build has put in place.

        Its tensor is kept and written to: a script, a scheduler or the optimizer's defaults may
        hold it. The present state's own is kept where it says the same, and never written to.
        """
        given = self._given.setdefault(self._places.get(id(value), id(value)), [])
        for source, copy in given:
            if source is value or difference(source, value) is None:
                return copy
        copy = there if self._is_writable(value, there) else deepcopy(value, self._memo)
        given.append((value, copy))
        return copy

    def _is_writable(self, value: Any, there: Any) -> bool:
        """Whether ``there`` says what ``value`` says by now: it is written to where it can be."""
        if not _alike(value, there) or id(there) in self._written:
            return False
        if difference(value, there) is not None:
            if self._state.is_of_present(there):
                return False
            with torch.no_grad():
                there.copy_(value)
        self._written.add(id(there))
        return True


def _alike(value: Any, there: Any) -> bool:
    """Whether both are plain tensors of one form, with memory."""
    if not (isinstance(value, torch.Tensor) and isinstance(there, torch.Tensor)):
        return False
    forms = (
        (type(each), each.shape, each.dtype, each.device.type, each.layout, each.requires_grad)
        for each in (value, there)
    )
    return len(set(forms)) == 1 and not (there.is_meta or isinstance(there, DTensor))


def check_not_split(
    words: str, values: Mapping[Hashable, Any], fqns: Mapping[Hashable, str], here: Collection[str]
) -> None:
    """Raises LayoutError when an object of several parameters would come apart over ranks.

    Args:
        words: how an error names what holds the values.
        values: what one rank of the source holds for each of its parameters, by key.
        fqns: the parameter of each key.
        here: the parameters that this rank of the target has.
    """
    of: dict[int, tuple[Any, list[str]]] = {}
    for key, held in values.items():
        for item in _writable_in(held):
            of.setdefault(id(item), (item, []))[1].append(fqns[key])
    for item, sharers in of.values():
        apart = [fqn for fqn in sharers if fqn not in here]
        if apart and len(apart) < len(sharers):
            together = next(fqn for fqn in sharers if fqn in here)
            raise LayoutError(
                f"adapters: {words} keeps one {type(item).__name__} for {together!r} and "
                f"{apart[0]!r}, which are on different ranks of the target\n"
                "  expected them on one rank: what is written to it for one is read for the other\n"
                "  nothing was switched; the source state is intact\n"
                "  keep an object for each parameter, or choose a layout that does not stage the "
                "model"
            )


def _writable_in(held: Mapping[Any, Any]) -> Iterator[Any]:
    """What can be written to in what is held for a parameter, each once; ``held`` is its own."""
    seen: set[int] = set()
    queue = list(held.values())
    while queue:
        item = queue.pop()
        if isinstance(item, _FIXED) or callable(item) or id(item) in seen:
            continue
        seen.add(id(item))
        if not isinstance(item, tuple):
            yield item
        if isinstance(item, Mapping):
            queue += item.values()
        elif isinstance(item, SEQUENCES):
            queue += item
