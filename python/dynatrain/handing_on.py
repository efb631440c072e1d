"""Ways to make one switch: in one pass, or in two, where receivers hand on what owners send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynatrain import _native

#: Bytes of a slice that are worth a message of their own.
LEAST_SLICE_BYTES = 256 << 10
#: A source and a target.
Maps = tuple[_native.ShardMap, _native.ShardMap]


@dataclass(frozen=True)
class HandedOn:
    """A switch in two passes, of all ranks.

    Attributes:
        fan_out: what is where behind the first pass.
        maps: of either pass, what ranks have and what they get. The second one's source is the
            target's memory.
        nodes: the node of each rank.
    """

    fan_out: _native.FanOut
    maps: tuple[Maps, Maps]
    nodes: Sequence[int]

    def plans_of(self, rank: int) -> tuple[_native.Plan, _native.Plan]:
        """The moves of one rank in either pass."""
        first = _native.make_plan(*self.maps[0], rank, self.nodes)
        return first, self.fan_out.hand_on_plan(rank, self.nodes)


def ways_to_hand_on(maps: Maps, nodes: Sequence[int]) -> list[HandedOn]:
    """The ways to make a switch in two passes; equal on all ranks, none where none may pay.

    On one machine the same cores carry every byte, whoever sends it.
    """
    if len(set(nodes)) < 2:
        return []
    ways = []
    for by_node in (False, True):
        found = _native.fan_out(*maps, nodes, by_node, LEAST_SLICE_BYTES)
        if found is not None:
            of_passes = ((maps[0], found.scattered), (found.given, found.wanted))
            ways.append(HandedOn(found, of_passes, nodes))
    return ways


def loads(ways: Sequence[Sequence[_native.Plan]], nodes: Sequence[int]) -> list[list[int]]:
    """By way, of the plans of its passes: bytes of a rank's busier direction between machines."""

    def load(plan: _native.Plan) -> int:
        _, _, sent, received = plan.by_link(nodes)
        return max(sent, received)

    return [[load(plan) for plan in plans] for plans in ways]
