"""A switch in two passes: what owners would send often, receivers hand on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynatrain import _native
from dynatrain.generation.engine import Engine

#: Bytes of a slice that are worth a message of their own.
LEAST_SLICE_BYTES = 256 << 10
#: A second pass is another wait for the slowest rank: it has to gain that.
_LEAST_GAIN = 1.25
#: Bytes of a rank's busier direction between machines: in one pass, and in each of two.
Loads = tuple[int, int, int]


@dataclass(frozen=True)
class Passes:
    """One switch in two passes, of one rank.

    Attributes:
        maps: by pass, what ranks have and what they get.
        plans: by pass, the moves of this rank. The second one's source is the target's memory.
        loads: what the rank's link carries in one pass, and in each of these.
    """

    maps: tuple[tuple[_native.ShardMap, _native.ShardMap], ...]
    plans: tuple[_native.Plan, ...]
    loads: Loads


def passes_of(
    engine: Engine,
    source_map: _native.ShardMap,
    target_map: _native.ShardMap,
    plan: _native.Plan,
) -> Passes | None:
    """The two passes of a switch; None, on all ranks, where nothing of it can be handed on.

    On one machine the same cores carry every byte, whoever sends it; and what peers read in place
    nobody sends.
    """
    nodes = engine.generation.members.node_of_rank
    in_place = any(lane.reads_in_place for lane in engine.lanes.values())
    if len(set(nodes)) < 2 or in_place:
        return None
    found = _native.fan_out(source_map, target_map, LEAST_SLICE_BYTES)
    if found is None:
        return None
    first = _native.make_plan(source_map, found.scattered, engine.rank, nodes)
    second = found.hand_on_plan(engine.rank, nodes)
    return Passes(
        ((source_map, found.scattered), (found.given, found.wanted)),
        (first, second),
        (_load(plan, nodes), _load(first, nodes), _load(second, nodes)),
    )


def _load(plan: _native.Plan, nodes: Sequence[int]) -> int:
    _, _, sent, received = plan.by_link(nodes)
    return max(sent, received)


def pay(loads: Sequence[Loads]) -> bool:
    """Whether two passes take clearly less time than one, by the busiest links of all ranks."""
    one = max(load[0] for load in loads)
    first = max(load[1] for load in loads)
    second = max(load[2] for load in loads)
    return one >= _LEAST_GAIN * (first + second)
