"""Objects with ``state_dict``: schedulers, scalers, extras; what they hand over and take.

A tensor in it that is cut as a parameter belongs to the map; the rest is a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from dynatrain._errors import LayoutError
from dynatrain.adapters.port import Published
from dynatrain.adapters.torch import schedulers, slots, trees
from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.adapters.torch.optimizers import asked
from dynatrain.train_state import Stateful

_INTACT = "nothing was moved; the source state is intact"
#: First words of the names of objects; other shared values have other names.
_FIRST = ("scheduler", "scaler", "extra")


@dataclass(frozen=True)
class Told:
    """What a Stateful object handed over.

    Attributes:
        kind: its class, where that must be the same in the target.
        state: what ``state_dict()`` returned, without tensors of the map.
        params: digest of this rank's parameters, where a list of tensors has one for each of them.
    """

    kind: str
    state: Any
    params: str = ""


def told(live: LiveTensors, name: str, item: Stateful) -> Told:
    """What an object of ``live`` hands over."""
    tree, names = live.objects[name]
    kind = "" if name.startswith("extra.") else schedulers.kinds(item)
    state = trees.without(tree, names)
    by_place = slots.is_by_place(state, len(live.params()))
    return Told(kind, state, slots.digest_of(live.params()) if by_place else "")


def read_per_rank(live: LiveTensors) -> dict[str, Any]:
    """What belongs to this rank alone, by name."""
    return {
        name: asked(name, "state_dict()", item.state_dict)
        for name, item in live.state.per_rank_objects()
    }


def check_objects(live: LiveTensors, published: Published) -> None:
    """Refuses an object of ``live`` without a source, of another class, or with other places."""
    for name, item in live.state.shared_objects():
        parts = published.shared.get(name)
        if not parts:
            known = sorted(n for n in published.shared if n.split(".")[0] in _FIRST)
            raise LayoutError(
                f"adapters: the target has {name!r}, of which the source has no state\n"
                f"  the source has {known}\n  {_INTACT}\n"
                "  return the same scheduler, scaler and extras from build for every layout"
            )
        own = told(live, name, item)
        if own.kind != parts[0].value.kind:
            raise LayoutError(
                f"adapters: {name} of the target is of class {own.kind}\n"
                f"  expected {parts[0].value.kind}, as in the source\n  {_INTACT}\n"
                "  make the same schedulers and scaler in build for every layout"
            )
        by = parts[0].value.params
        if by and by != slots.digest_of(live.params()):
            raise LayoutError(
                f"adapters: {name} keeps a list with one tensor for each parameter of the rank\n"
                f"  this rank of the target has other parameters than the source's\n  {_INTACT}\n"
                "  keep a dict by the names of the parameters instead"
            )


def load_objects(live: LiveTensors, published: Published, *, with_tensors: bool) -> None:
    """Loads the objects of ``live`` that hold tensors of the map, or those that hold none.

    Groups are taken after them: some schedulers write into the optimizer while they load.
    """
    for name, item in live.state.shared_objects():
        tree, names = live.objects[name]
        if bool(names) is with_tensors:
            state = _joined(published.shared[name][0].value.state, names, live.tensors)
            asked(name, "load_state_dict()", partial(item.load_state_dict, state))
            if names or next(trees.leaves((tree, state)), None) is not None:
                _check_memory(name, item)


def _joined(
    state: Any, names: Mapping[trees.Path, str], tensors: Mapping[str, torch.Tensor]
) -> Any:
    """What an object handed over, with the tensors that this rank has of it."""
    marks = set(trees.marks(state))
    state = trees.put_back(state, tensors)
    for path, name in names.items():
        if name not in marks:
            trees.inserted(state, path, tensors[name])
    return state


def _check_memory(name: str, item: Stateful) -> None:
    now = asked(name, "state_dict()", item.state_dict)
    for path, tensor in trees.leaves(now):
        if tensor.is_meta:
            raise LayoutError(
                f"adapters: {name} has no memory at {trees.text(path)!r} after load_state_dict()\n"
                "  expected it to take the tensors over: those that build made on meta cannot be "
                "copied into\n"
                "  the source state is intact and training may go on\n"
                "  assign in load_state_dict(), as self.average = state_dict['average']"
            )


def take_per_rank(live: LiveTensors, published: Published, rank: int) -> None:
    """Gives objects that belong to their rank what rank ``rank`` of the source had, if it did."""
    for name, item in live.state.per_rank_objects():
        for part in published.per_rank.get(name, ()):
            if rank in part.ranks:
                asked(name, "load_state_dict()", partial(item.load_state_dict, part.value))
        _check_memory(name, item)
