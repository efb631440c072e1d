"""Schedulers count the groups of their optimizer by place: what that asks of a target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.optim import Optimizer

from dynatrain._errors import LayoutError
from dynatrain.adapters.torch.groups import Held, Origin, Origins
from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.adapters.torch.meaning import difference
from dynatrain.adapters.torch.optimizers import Holder

#: Lists of torch's schedulers with one entry for each param group.
_BY_GROUP = ("base_lrs", "_last_lr", "min_lrs", "max_lrs", "lr_lambdas")
_INTACT = "nothing was moved; the source state is intact"


def driven(live: LiveTensors) -> Iterator[tuple[str, Any]]:
    """Schedulers of a state and those inside of them, each with the name it is given under."""
    for name, item in live.state.stateful_objects():
        if name.split(".")[0] == "scheduler":
            yield from ((name, one) for one in _nested(item))


def _nested(scheduler: Any) -> Iterator[Any]:
    yield scheduler
    for value in getattr(scheduler, "__dict__", {}).values():
        for item in value if isinstance(value, list | tuple) else [value]:
            if hasattr(item, "load_state_dict") and hasattr(item, "optimizer"):
                yield from _nested(item)


def kinds(scheduler: Any) -> str:
    """Classes of a scheduler and those inside of it, in order."""
    return " ".join(
        f"{type(one).__module__}.{type(one).__qualname__}" for one in _nested(scheduler)
    )


def check_schedulers(live: LiveTensors, origins: Origins) -> None:
    """Refuses a target whose groups are not where its schedulers expect them.

    Raises:
        LayoutError: a scheduler drives an optimizer of another state, or a group of the source is
            left out or stands elsewhere.
    """
    of = {id(item): holder for holder in live.holders for item in holder.all}
    for name, scheduler in driven(live):
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
    for name, scheduler in driven(live):
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
