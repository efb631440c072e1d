"""What a switch that streams frees of the source and takes of the target, lane by lane."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence

import torch

from dynatrain import _native
from dynatrain.adapters.port import Storages
from dynatrain.generation.engine import Engine, Side
from dynatrain.generation.lanes import HOST
from dynatrain.switch.blueprint import Blueprint
from dynatrain.switch.route import Route

_NONE = Storages((), (), (), {})
#: In place of memory that is not freed.
_NOTHING = torch.UntypedStorage(0)  # type: ignore[no-untyped-call]


def streams_of(
    engine: Engine, blueprint: Blueprint, target: Side, routes: Sequence[Route]
) -> list[_native.StreamingRun]:
    """What is freed and taken when, for each of ``routes``.

    A storage belongs to the lane of its tensors. What the target has as well, as memory that is
    lent to it or a part of the state that build handed over again, stays as it is; so does what
    cannot be freed, and what this rank holds of a state that is not live. Of the target, what is
    empty is taken.
    """
    source, taken = _storages(blueprint.source), _storages(target)
    shared = frozenset(source.keys) & frozenset(taken.keys)
    lacking = {name for name, (number, _) in taken.of_tensor.items() if number in taken.empty}
    found = []
    for route in routes:
        names = frozenset(route.moves.names)
        freed, kept = _of_lane(source, names, source.fixed | _numbers(source, shared))
        filled, _ = _of_lane(taken, names & lacking, ())
        watermark = engine.lanes[HOST].executor.make_watermark()
        found.append(
            _native.StreamingRun(
                route.schedule,
                (blueprint.source_map, blueprint.target_map),
                route.last_reads,
                (freed, filled),
                kept,
                watermark,
            )
        )
    return found


def bytes_ahead(source: Side, target: Side) -> int:
    """What the target has of memory that is neither the source's nor left empty."""
    taken, held = _storages(target), _storages(source)
    shared = frozenset(held.keys)
    return sum(
        size
        for number, (key, size) in enumerate(zip(taken.keys, taken.size_bytes, strict=True))
        if key not in shared and number not in taken.empty
    )


def _numbers(storages: Storages, keys: Collection[Hashable]) -> set[int]:
    return {number for number, key in enumerate(storages.keys) if key in keys}


def _storages(side: Side) -> Storages:
    """Where the tensors of a side lie; copies of a state that is not live are not to be freed."""
    if side.held is not None:
        of_tensor = dict.fromkeys(side.table.names(), (0, 0))
        return Storages((_NOTHING,), ("held",), (0,), of_tensor, fixed=frozenset({0}))
    return _NONE if side.inventory is None else side.inventory.storages()


def _of_lane(
    storages: Storages, names: Collection[str], kept: Collection[int]
) -> tuple[_native.NamedStorages, list[int]]:
    """The storages in which tensors of these names lie, and which of them are in ``kept``."""
    numbers: dict[int, int] = {}
    of_tensor: dict[str, tuple[int, int]] = {}
    for name, (number, offset) in storages.of_tensor.items():
        if name in names:
            of_tensor[name] = numbers.setdefault(number, len(numbers)), offset
    gaps = [own for number, own in numbers.items() if number in storages.gaps]
    named = _native.NamedStorages(*_sized(storages, numbers), of_tensor, gaps)
    return named, [own for number, own in numbers.items() if number in kept]


def _sized(storages: Storages, numbers: Mapping[int, int]) -> tuple[list[object], list[int]]:
    return [storages.each[each] for each in numbers], [storages.size_bytes[n] for n in numbers]
