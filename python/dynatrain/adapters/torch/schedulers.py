"""Schedulers count the groups of their optimizer by place: what that asks of a target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, ValuesView
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dynatrain._errors import LayoutError
from dynatrain.adapters.torch.codec import readable
from dynatrain.adapters.torch.groups import Held, Origin, Origins
from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.adapters.torch.meaning import difference
from dynatrain.adapters.torch.optimizers import Holder
from dynatrain.train_state import TrainState

#: Lists of torch's schedulers with one entry for each param group.
_BY_GROUP = ("base_lrs", "_last_lr", "min_lrs", "max_lrs", "lr_lambdas")
_INTACT = "nothing was switched; the source state is intact"


@readable
@dataclass(frozen=True)
class Alike:
    """Stands for a list with an entry for each part of a container that all mean the same."""

    entry: Any
    kind: type


@readable
@dataclass(frozen=True)
class Apart:
    """Stands for a list with an entry for each part of a container that do not mean the same."""

    entries: Any


def driven(state: TrainState) -> Iterator[tuple[str, Any]]:
    """Schedulers of a state and those inside of them, each with the name it is given under."""
    for name, item in state.stateful_objects():
        if name.split(".")[0] == "scheduler":
            yield from ((name, one) for one in _nested(item, set()))


def _inside(scheduler: Any) -> Iterator[tuple[str, Any]]:
    """The schedulers that one holds, with the name of the attribute."""
    for name, value in getattr(scheduler, "__dict__", {}).items():
        items = value.values() if isinstance(value, dict) else value
        for item in items if isinstance(items, list | tuple | ValuesView) else [items]:
            held = getattr(item, "__dict__", {})
            drives = "optimizer" in held or hasattr(type(item), "optimizer")
            if drives and hasattr(type(item), "load_state_dict"):
                yield name, item


def _nested(scheduler: Any, seen: set[int]) -> Iterator[Any]:
    if id(scheduler) in seen:
        return  # it refers to itself, or to what holds it
    seen.add(id(scheduler))
    yield scheduler
    for _, item in _inside(scheduler):
        yield from _nested(item, seen)


def kinds(scheduler: Any) -> str:
    """Classes of a scheduler and those inside of it.

    Those inside of one of torch's own follow each other in time, and each counts. Any other holds
    one for each part of a model, and a rank has more or fewer parts in another layout: classes
    count once.
    """
    return _kinds(scheduler, set())


def _kinds(scheduler: Any, seen: set[int]) -> str:
    seen.add(id(scheduler))
    inner = []
    for _, item in _inside(scheduler):
        if id(item) not in seen:
            inner.append(_kinds(item, seen))
    if not isinstance(scheduler, LRScheduler):
        inner = list(dict.fromkeys(inner))
    return " ".join([f"{type(scheduler).__module__}.{type(scheduler).__qualname__}", *inner])


def parts_once(scheduler: Any, state: Any) -> Any:
    """What a scheduler handed over, the same for any number of its parts.

    A list under the name of the attribute that holds the parts becomes one entry where all of its
    entries mean the same.
    """
    return _with_parts(scheduler, state, _once)


def _once(item: Any, num_parts: int) -> Any:
    if not isinstance(item, list | tuple) or len(item) != num_parts:
        return item
    alike = all(difference(item[0], one) is None for one in item)
    return Alike(item[0], type(item)) if alike else Apart(item)


def parts_again(scheduler: Any, state: Any) -> Any:
    """What :func:`parts_once` made, as a scheduler with its own number of parts takes it.

    Raises:
        LayoutError: the parts of the source differ, and there were more or fewer of them.
    """
    return _with_parts(scheduler, state, _again)


def _again(item: Any, num_parts: int) -> Any:
    if isinstance(item, Alike):
        return item.kind(deepcopy(item.entry) for _ in range(num_parts))
    if not isinstance(item, Apart):
        return item
    if len(item.entries) != num_parts:
        raise LayoutError(
            f"adapters: the {len(item.entries)} parts of a scheduler differ in the source\n"
            f"  the target has {num_parts} parts: which of them takes what cannot be said\n"
            f"  {_INTACT}\n"
            "  step all parts alike, or choose a layout with as many parts on each rank"
        )
    return item.entries


def _with_parts(scheduler: Any, state: Any, change: Callable[[Any, int], Any]) -> Any:
    """``state`` with each list of parts changed; ``change`` learns how many there are."""
    if isinstance(scheduler, LRScheduler) or not isinstance(state, Mapping):
        return state
    counts = Counter(name.strip("_") for name, _ in _inside(scheduler))
    changed = {
        key: change(item, counts[str(key).strip("_")])
        for key, item in state.items()
        if str(key).strip("_") in counts
    }
    return {**state, **changed} if changed else state


def check_schedulers(live: LiveTensors, origins: Origins) -> None:
    """Refuses a target whose groups are not where its schedulers expect them.

    Raises:
        LayoutError: a scheduler drives an optimizer of another state, or a group of the source is
            left out or stands elsewhere.
    """
    of = {id(item): holder for holder in live.holders for item in holder.all}
    for name, scheduler in driven(live.state):
        optimizer = getattr(scheduler, "optimizer", None)
        if not isinstance(optimizer, Optimizer):
            continue
        holder = of.get(id(optimizer))
        if holder is None:
            raise LayoutError(
                f"adapters: {name} ({type(scheduler).__name__}) drives an optimizer that the "
                f"target's TrainState does not have\n"
                "  expected one that build made for this layout and returned\n"
                f"  {_INTACT}\n  make scheduler and optimizer anew in every call of build"
            )
        for held in origins.all_of(holder, live):
            _check_number(name, holder, held)
        for number, group in enumerate(holder.groups):
            fqns = [live.fqn(param) for param in group["params"]]
            _check_places(name, number, origins.of(holder, fqns))


def _check_number(name: str, holder: Holder, held: Held) -> None:
    if len(held.groups) != len(holder.groups):
        raise LayoutError(
            f"adapters: {name} counts {len(held.groups)} param groups in the source\n"
            f"  {holder.words} of the target has {len(holder.groups)}\n  {_INTACT}\n"
            '  keep every group in build, with "params": [] on a rank that has none of them'
        )


def _check_places(name: str, number: int, origins: dict[str, Origin]) -> None:
    for fqn, origin in origins.items():
        if origin.place == number:
            continue
        there = origin.held.groups
        if number < len(there) and difference(there[number].options, origin.options) is None:
            continue
        raise LayoutError(
            f"adapters: {fqn!r} is in group {number} of the target and was in group "
            f"{origin.place} of the source\n"
            f"  {name} keeps a learning rate for each group by its place\n  {_INTACT}\n"
            "  make the same param groups in the same order in build for every layout"
        )


def check_counts(live: LiveTensors) -> None:
    """Refuses a scheduler that loaded lists of another length than its optimizer has groups."""
    for name, scheduler in driven(live.state):
        optimizer = getattr(scheduler, "optimizer", None)
        if not isinstance(optimizer, Optimizer):
            continue
        for key in _BY_GROUP:
            entries = getattr(scheduler, key, None)
            if isinstance(entries, list) and len(entries) != len(optimizer.param_groups):
                raise LayoutError(
                    f"adapters: {name} has {len(entries)} entries in {key}\n"
                    f"  its optimizer has {len(optimizer.param_groups)} param groups\n"
                    "  the source state is intact and training may go on\n"
                    "  make the same param groups in build for every layout"
                )
