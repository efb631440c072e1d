"""Who keeps whose copies."""

from __future__ import annotations

import pytest

from dynatrain import Layout
from dynatrain.elastic.partners import partners_of


# Each is kept by one other, and keeps those of one: a member that keeps two would need more memory.
@pytest.mark.parametrize("num_ranks", range(2, 18))
def test_each_has_one_keeper_and_keeps_one(num_ranks):
    pairs = [partners_of(rank, [0] * num_ranks) for rank in range(num_ranks)]
    assert sorted(keeper for keeper, _ in pairs) == [*range(num_ranks)]
    for rank, (keeper, _) in enumerate(pairs):
        assert keeper != rank
        assert pairs[keeper][1] == rank


# A host takes all of its members with it. Where none has more than half of them, no copy is lost.
@pytest.mark.parametrize(
    "nodes",
    [[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1, 1, 2], [0, 1, 2], [2, 0, 1, 1, 0, 2, 2], [0, 1] * 9],
)
def test_the_keeper_is_on_another_host(nodes):
    for rank, node in enumerate(nodes):
        assert nodes[partners_of(rank, nodes)[0]] != node


# Both owners of the same parts were lost, and their copies lay with each other: the parts were gone
# while half of the job lived.
@pytest.mark.parametrize(
    ("layout", "nodes"),
    [
        ("dp=2,dp_replicate=2", [0, 0, 0, 0]),
        ("dp=2,dp_replicate=2", [0, 0, 1, 1]),
        ("dp=2,dp_replicate=2", [1, 0, 0, 1]),
        ("dp=2,dp_replicate=3", [0] * 6),
        ("dp=2,dp_replicate=3", [0, 0, 1, 1, 2, 2]),
        ("dp=4,dp_replicate=2", [0] * 4 + [1] * 4),
        ("dp=2,dp_replicate=4", [0] * 4 + [1] * 4),
        ("dp_replicate=2,pp=2,tp=2", [0, 0, 1, 1, 2, 2, 3, 3]),
        ("dp_replicate=2,tp=8", [0] * 8 + [1] * 8),
    ],
)
def test_no_keeper_is_a_replica_of_whom_it_keeps(layout, nodes):
    layout = Layout.parse(layout)
    pairs = [partners_of(rank, nodes, layout) for rank in range(len(nodes))]
    assert sorted(keeper for keeper, _ in pairs) == [*range(len(nodes))]
    for rank, (keeper, _) in enumerate(pairs):
        assert keeper not in layout.group(rank, "dp_replicate")
        assert len({*nodes}) == 1 or nodes[keeper] != nodes[rank]
        assert pairs[keeper][1] == rank


# All hold the same: nobody is lost with anybody, and the host counts.
def test_where_all_are_replicas_the_keeper_is_on_another_host():
    layout = Layout(dp_replicate=4)
    assert [partners_of(rank, [0, 0, 1, 1], layout)[0] for rank in range(4)] == [2, 3, 0, 1]


# Each pair is made by its two members, one behind the other in a ring: a thousand of them had one
# deadline together.
def test_most_pairs_of_replicas_on_several_hosts_keep_each_others_copies():
    layout, nodes = Layout(dp=4, tp=8, dp_replicate=2), [rank // 8 for rank in range(64)]
    pairs = [partners_of(rank, nodes, layout) for rank in range(64)]
    assert all(keeper == kept for keeper, kept in pairs)
