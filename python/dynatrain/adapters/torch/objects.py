"""Objects with ``state_dict``: schedulers, scalers, extras; what they hand over and take.

A tensor in it that is cut as a parameter belongs to the map; the rest is a value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from dynatrain._errors import LayoutError
from dynatrain._torch_private.tensors import local_tensor
from dynatrain.adapters.port import Published
from dynatrain.adapters.torch import schedulers, slots, trees
from dynatrain.adapters.torch.codec import readable
from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.adapters.torch.names import BUFFER, PARAM
from dynatrain.adapters.torch.optimizers import asked
from dynatrain.adapters.torch.placing import wrap_like
from dynatrain.given import described
from dynatrain.train_state import Stateful, TrainState

_INTACT = "nothing was switched; the source state is intact"
#: First words of the names of objects; other shared values have other names.
_FIRST = ("scheduler", "scaler", "extra")


@readable
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
    kind = _kind(name, item)
    state = _taken_apart(name, lambda: trees.without(tree, names))
    if kind:
        state = schedulers.parts_once(item, state)
    by_place = slots.is_by_place(state, [param.shape for param in live.params().values()])
    return Told(kind, state, slots.digest_of(live.params()) if by_place else "")


def _kind(name: str, item: Stateful) -> str:
    """Its classes, where they must be the same in the target."""
    return "" if name.startswith("extra.") else schedulers.kinds(item)


def _taken_apart(name: str, work: Callable[[], Any]) -> Any:
    """What ``work`` makes of what an object handed over; its containers may raise anything."""
    try:
        return work()
    except Exception as error:  # whatever the user's containers raise
        raise LayoutError(
            f"adapters: what state_dict() of {name} returns cannot be taken apart: "
            f"{described(error)}\n"
            "  expected dicts, lists and tuples that can be copied, with the same places in every "
            f"layout\n  {_INTACT}\n"
            "  return plain dicts by name, and lists of plain values"
        ) from error


def check_modules(state: TrainState) -> None:
    """Refuses a module among the extras that hands over more than tensors and torch's hooks say."""
    for name, item in state.named_modules():
        if not name or type(item).state_dict is nn.Module.state_dict:
            continue
        own = {key for key, _ in item.named_parameters(remove_duplicate=False)}
        own |= {key for key, _ in item.named_buffers(remove_duplicate=False)}
        handed: Any = asked(name.rstrip("."), "state_dict()", item.state_dict)
        if not isinstance(handed, Mapping):
            handed = {f"a {type(handed).__name__}": handed}
        more = [key for key in handed if key not in own and not str(key).endswith("_extra_state")]
        if more:
            raise LayoutError(
                f"adapters: {name.rstrip('.')} is a module whose state_dict() writes {more[0]!r}\n"
                "  expected parameters and buffers: a module among the extras travels as the model "
                f"does\n  {_INTACT}\n"
                "  hand it over by get_extra_state(), or as an extra of its own"
            )


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
        kind = _kind(name, item)
        if kind != parts[0].value.kind:
            raise LayoutError(
                f"adapters: {name} of the target is of class {kind}\n"
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


def why_other_tensors(in_source: Collection[str], in_target: Collection[str]) -> str | None:
    """What to say of tensors of objects that one side alone has; None where there are others.

    A tensor whose place names no parameter belongs to the map where it is a DTensor, and is a value
    where it is plain, as in a layout that cuts nothing.
    """
    names = sorted({*in_source, *in_target})
    of_modules = (f"|{PARAM}", f"|{BUFFER}")
    others = (n for n in names if n.split(".")[0].split("|")[0] not in _FIRST)
    if not names or next(others, None) or any(name.endswith(of_modules) for name in names):
        return None
    item, _, place = names[0].partition("|")
    side, other = ("source", "target") if names[0] in in_source else ("target", "source")
    return (
        f"adapters: {item} has a tensor at {place!r} that is cut in the {side} and not in the "
        f"{other}, or is not there ({len(names)} such)\n"
        "  expected the same tensors in both, each under the name of the parameter that it is cut "
        f"as, or cut in both\n  {_INTACT}\n"
        "  hand it over in a dict by the FQNs of parameters, such as {'layers.0.weight': ...}"
    )


def load_objects(live: LiveTensors, published: Published, *, with_tensors: bool) -> None:
    """Loads the objects of ``live`` that hold tensors of the map, or those that hold none.

    Groups are taken after them: some schedulers write into the optimizer while they load.
    """
    for name, item in live.state.shared_objects():
        tree, names = live.objects[name]
        if live.state.is_of_present(item):
            _check_shareable(name, names)
        elif bool(names) is with_tensors:
            given = schedulers.parts_again(item, published.shared[name][0].value.state)
            join = partial(_joined, given, names, live.tensors)
            state = _taken_apart(name, join)
            asked(name, "load_state_dict()", partial(item.load_state_dict, state))
            if names or next(trees.leaves((tree, state)), None) is not None:
                _check_memory(name, item)


def try_waiting(live: LiveTensors, published: Published, device: torch.device) -> None:
    """On trial: whether objects that wait for tensors of the map take those over.

    They load stand-ins of one element, read as many. What such an object raises is no refusal: it
    may look at the numbers.

    Raises:
        LayoutError: an object copies into what build made on meta.
    """
    tensors = {
        name: wrap_like(tensor, _stand_in(local_tensor(tensor), device))
        for name, tensor in live.tensors.items()
    }
    for name, item in live.state.shared_objects():
        tree, names = live.objects[name]
        if names and not (live.state.is_of_present(item) or _hands_out_its_own(name, item, tree)):
            given = schedulers.parts_again(item, published.shared[name][0].value.state)
            try:
                item.load_state_dict(_joined(given, names, tensors))
            except Exception:  # noqa: BLE001 - the switch itself tells
                continue
            _check_memory(name, item)


def _hands_out_its_own(name: str, item: Stateful, tree: Any) -> bool:
    """Whether an object hands over its own tensors, under which memory is put, and no copies."""
    again = asked(name, "state_dict()", item.state_dict)
    return {_memory(leaf) for _, leaf in trees.leaves(tree)} == {
        _memory(leaf) for _, leaf in trees.leaves(again)
    }


def _memory(tensor: torch.Tensor) -> int:
    local = local_tensor(tensor)
    if local.layout is not torch.strided:
        return id(tensor)
    return int(local.untyped_storage()._cdata)


def _stand_in(local: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.zeros((), dtype=local.dtype, device=device).expand(local.shape)


def waiting(live: LiveTensors) -> set[str]:
    """Names of the objects of ``live`` that load when the tensors of the map have arrived."""
    return {name for name, _ in live.state.shared_objects() if live.objects[name][1]}


def _check_shareable(name: str, names: Mapping[trees.Path, str]) -> None:
    """An object of both states goes on as it is; one whose tensors are cut anew cannot."""
    if names:
        raise LayoutError(
            f"adapters: build hands {name} of the present state over again, and it holds tensors "
            f"that are cut as parameters, {next(iter(names.values()))!r} among them\n"
            "  expected an object made anew: its tensors are the source of the switch\n"
            f"  {_INTACT}\n"
            "  make it inside build, in every call"
        )


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


def _is_on_trial(live: LiveTensors) -> bool:
    return any(local_tensor(tensor).is_meta for tensor in live.tensors.values())


def take_per_rank(live: LiveTensors, published: Published, rank: int) -> None:
    """Gives objects that belong to their rank what rank ``rank`` of the source had, if it did."""
    for name, item in live.state.per_rank_objects():
        if live.state.is_of_present(item):
            continue
        if isinstance(item, nn.Module) and _is_on_trial(live):
            continue  # it gets memory, and what it had, at a switch
        for part in published.per_rank.get(name, ()):
            if rank in part.ranks:
                asked(name, "load_state_dict()", partial(item.load_state_dict, part.value))
        _check_memory(name, item)
