"""The maps between which a described switch is, and the plans of all its ranks, pass by pass."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dynatrain import _native
from dynatrain.handing_on import loads, ways_to_hand_on
from dynatrain.layout import Layout
from dynatrain.planning.maps import describe
from dynatrain.planning.tensors import Model
from dynatrain.planning.topologies import Topology


@dataclass(frozen=True)
class Pass:
    """One pass of a switch.

    Attributes:
        source: what ranks have.
        target: what they get.
        plans: the moves of each rank.
    """

    source: _native.ShardMap
    target: _native.ShardMap
    plans: list[_native.Plan]


@dataclass(frozen=True)
class Maps:
    """Two layouts of one model, and the nodes of their ranks.

    Attributes:
        source: where everything is.
        target: where it shall be.
        nodes: the node of each rank; empty where all share one.
    """

    source: _native.ShardMap
    target: _native.ShardMap
    nodes: list[int]

    @property
    def num_ranks(self) -> int:
        """Ranks of the larger world."""
        return max(self.source.num_ranks, self.target.num_ranks)

    def node_of(self, rank: int) -> int:
        """The node of a rank."""
        return self.nodes[rank] if self.nodes else 0

    def in_one_pass(self) -> Pass:
        """All moves at once."""
        plans = [
            _native.make_plan(self.source, self.target, rank, self.nodes)
            for rank in range(self.num_ranks)
        ]
        return Pass(self.source, self.target, plans)

    def passes(self) -> list[Pass]:
        """The switch as a live one between these ranks makes it, of messages: in one pass, or two.

        Cost: the plans of all ranks, one after the other, by every way that there is.
        """
        ranks, once = range(self.num_ranks), self.in_one_pass()
        ways = ways_to_hand_on((self.source, self.target), self.nodes)
        of_ways = [[way.plans_of(rank) for rank in ranks] for way in ways]
        told = [
            loads([(once.plans[rank],), *(of_way[rank] for of_way in of_ways)], self.nodes)
            for rank in ranks
        ]
        taken = _native.way_of_least_load(told)
        if taken == 0:
            return [once]
        first, second = zip(*of_ways[taken - 1], strict=True)
        of_first, of_second = ways[taken - 1].maps
        return [Pass(*of_first, list(first)), Pass(*of_second, list(second))]


def maps_of(
    source: Layout, target: Layout, model: Model, links: Topology, is_disjoint: bool = False
) -> Maps:
    """The maps that a switch of a described model goes by; ``is_disjoint`` as in a PlanReport.

    Raises:
        LayoutError: a layout does not fit the model, or the links cannot hold its ranks.
    """
    first = source.world_size if is_disjoint else 0
    ranks = range(first, first + target.world_size)
    nodes = links.node_of_rank(max(source.world_size, ranks.stop))
    before = describe(source, model.tensors, model.slots)
    after = describe(target, model.tensors, model.slots, ranks)
    return Maps(before, after, nodes)


def relabelled(maps: Maps, target: Layout, model: Model) -> tuple[Maps, int]:
    """The same with the target's places given to ranks that have much of them already.

    Returns:
        The maps, and the bytes that this saves. The ranks are those of the target as it is, none of
        them another one.
    """
    found = _native.relabel(maps.source, maps.target, maps.nodes, range(target.world_size))
    after = describe(target, model.tensors, model.slots, found.ranks)
    return replace(maps, target=after), found.natural_moved_bytes - found.moved_bytes
