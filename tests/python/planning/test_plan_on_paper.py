"""Plans of described models, against counts made by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import dynatrain
from dynatrain import Layout, LayoutError, TensorSpec, Topology
from dynatrain.planning import explain, load_model

# 8 x 4 float32 with two moments: 96 elements, 384 bytes, of which one row is 48 bytes.
MATRIX = [TensorSpec("w", (8, 4), tp_dim=0)]
ROW_BYTES = 4 * 4 * 3


def llama(layers, hidden, ffn, vocab, kv_heads=2):
    """A small one of two heads; its parameters, with two moments each."""
    config = {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": 2,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
    }
    return load_model(config)


def received(report):
    return [rank.received_bytes for rank in report.ranks]


def kept(report):
    return [rank.kept_bytes for rank in report.ranks]


# dp=2: rows 0-3 | 4-7. dp=4: 0-1 | 2-3 | 4-5 | 6-7. Rank 0 has its rows, the others fetch two each.
def test_scale_out_moves_what_each_rank_lacks():
    report = dynatrain.plan("dp=2", "dp=4", MATRIX)

    assert received(report) == [0, 2 * ROW_BYTES, 2 * ROW_BYTES, 2 * ROW_BYTES]
    assert kept(report) == [2 * ROW_BYTES, 0, 0, 0]
    assert [rank.sent_bytes for rank in report.ranks] == [2 * ROW_BYTES, 4 * ROW_BYTES, 0, 0]


# One copy to eight, four ranks a node. The own node's three others share it, the other node's four,
# too: it crosses once; each rank of the first gets two thirds by way of others, of the second three
# quarters. Without nodes all of it comes from its owner.
def test_copies_are_handed_on_where_links_between_nodes_carry_less():
    large = [TensorSpec("w", (2052, 1024))]
    state_bytes = 2052 * 1024 * 4 * 3
    links = Topology(ranks_per_node=4, link_bytes_per_second=1e9, node_link_bytes_per_second=4e9)
    report = dynatrain.plan("dp_replicate=1", "dp_replicate=8", large, links)

    assert received(report) == [0] + [state_bytes] * 7
    assert report.lower_bound_bytes == report.bytes_moved == 7 * state_bytes
    assert report.bytes_moved_far == state_bytes
    assert report.handed_on_bytes == 2 * state_bytes + 3 * state_bytes
    assert [rank.sent_bytes for rank in report.ranks] == [
        2 * state_bytes,
        *[2 * state_bytes // 3] * 3,
        *[3 * state_bytes // 4] * 4,
    ]
    assert [rank.sent_far_bytes for rank in report.ranks] == [state_bytes] + [0] * 7
    # Out of the first node at 1 GB/s, then three quarters at 4 GB/s.
    least = state_bytes / 1e9 + 0.75 * state_bytes / 4e9
    assert least <= report.predicted_seconds <= 1.2 * least
    assert len(report.timeline) == report.num_stages
    assert report.timeline[-1].unpack_end == report.predicted_seconds
    in_one = dynatrain.plan("dp_replicate=1", "dp_replicate=8", large)
    assert in_one.handed_on_bytes == 0
    assert in_one.ranks[0].sent_bytes == 7 * state_bytes


def test_explanation_says_what_is_handed_on():
    large = [TensorSpec("w", (2052, 1024))]
    layouts, links = ("dp_replicate=1", "dp_replicate=8"), Topology(ranks_per_node=4)
    found = explain(layouts, large, "w", 5, links)

    told = {
        (each.in_pass, each.src, each.dst, each.begin[0], each.end[0]) for each in found.transfers
    }
    assert told == {
        (1, 0, 5, 513, 1026),
        *((2, 5, peer, 513, 1026) for peer in (4, 6, 7)),
        *((2, peer, 5, 513 * slot, 513 * slot + 513) for peer, slot in ((4, 0), (6, 2), (7, 3))),
    }
    assert {each.why for each in found.transfers if each.in_pass == 2} == {
        "handed on: it was sent this part"
    }


# dp=4 to one rank: it holds two rows of eight.
def test_gathering_on_one_rank_moves_all_but_its_own():
    report = dynatrain.plan("dp=4", "dp=1", MATRIX)

    assert received(report) == [6 * ROW_BYTES, 0, 0, 0]
    assert kept(report) == [2 * ROW_BYTES, 0, 0, 0]


# Rows: tp=2 gives 0-3 to tp rank 0 and 4-7 to tp rank 1; dp=2 inside halves each. So ranks hold
# 0-1 | 4-5 | 2-3 | 6-7 (tp varies fastest) against 0-1 | 2-3 | 4-5 | 6-7 before.
def test_fsdp_inside_tp_swaps_the_middle_ranks():
    report = dynatrain.plan("dp=4", "dp=2,tp=2", MATRIX)

    assert received(report) == [0, 2 * ROW_BYTES, 2 * ROW_BYTES, 0]
    assert kept(report) == [2 * ROW_BYTES, 0, 0, 2 * ROW_BYTES]


# The same: had ranks 1 and 2 each other's places, nothing would move.
def test_relabelled_ranks_keep_what_they_have():
    natural = dynatrain.plan("dp=4", "dp=2,tp=2", MATRIX)
    assert (natural.is_relabelled, natural.relabel_saved_bytes) == (False, 4 * ROW_BYTES)

    report = dynatrain.plan("dp=4", "dp=2,tp=2", MATRIX, relabel=True)
    assert (report.is_relabelled, report.relabel_saved_bytes) == (True, 4 * ROW_BYTES)
    assert (received(report), kept(report)) == ([0] * 4, [2 * ROW_BYTES] * 4)


# Four nodes of two: tensor parallelism stays in a node, so whole nodes change places, or ranks do
# within theirs.
@pytest.mark.parametrize(
    ("source", "target"),
    [("tp=2,pp=4", "tp=2,pp=2,dp=2"), ("tp=2,dp=4", "dp=8"), ("pp=8", "tp=2,pp=4")],
)
def test_relabelling_is_never_worse_and_keeps_tensor_parallelism_in_its_node(source, target):
    model, links = llama(layers=8, hidden=32, ffn=64, vocab=64), Topology(ranks_per_node=2)
    natural = dynatrain.plan(source, target, model, links)
    report = dynatrain.plan(source, target, model, links, relabel=True)

    assert report.bytes_moved == natural.bytes_moved - report.relabel_saved_bytes
    assert report.bytes_moved == report.lower_bound_bytes
    assert report.bytes_moved_far <= natural.bytes_moved_far
    assert sum(r.target_bytes for r in report.ranks) == sum(r.target_bytes for r in natural.ranks)


# Both states at once, or what stands side by side of them: never less than the larger one.
def test_a_stream_needs_little_more_than_the_larger_state():
    model = llama(layers=32, hidden=128, ffn=512, vocab=64)
    reports = {
        mode: dynatrain.plan("dp=4", "pp=4", model, None, 1 << 20, mode=mode)
        for mode in ("retain", "stream")
    }

    for retained, streamed in zip(*(each.ranks for each in reports.values()), strict=True):
        larger = max(retained.source_bytes, retained.target_bytes)
        assert larger < streamed.peak_bytes < 0.75 * retained.peak_bytes
    memory = reports["stream"].memory
    assert len(memory) == reports["stream"].num_stages > 8
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(memory))
    with pytest.raises(LayoutError, match="mode"):
        dynatrain.plan("dp=4", "tp=4", model, mode="streams")


# A tensor that tp cuts by columns: dp=2 holds half of the rows, tp=2 half of the columns.
def test_rows_to_columns_exchanges_a_quarter_each_way():
    columns = [TensorSpec("w", (8, 4), tp_dim=1)]
    report = dynatrain.plan("dp=2", "tp=2", columns)

    assert received(report) == [4 * 2 * 4 * 3] * 2
    assert kept(report) == [4 * 2 * 4 * 3] * 2


# Two layers of 96 elements: pp=2 puts the second one on rank 1, tp=1.
def test_pipeline_moves_the_layers_that_change_rank():
    layers = [TensorSpec(f"layers.{i}.w", (8, 4), 0, (i,)) for i in range(2)]
    report = dynatrain.plan("dp=1", "pp=2", layers)

    assert received(report) == [0, 8 * ROW_BYTES]
    assert kept(report) == [8 * ROW_BYTES, 0]


def test_same_layout_moves_nothing():
    report = dynatrain.plan("dp=2,tp=2", "dp=2,tp=2", llama(2, 16, 32, 64))

    assert report.bytes_moved == report.lower_bound_bytes == 0
    assert sum(kept(report)) > 0


# Law 3: a byte over the bound is a byte that was held, or came twice.
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("dp=4", "dp=2,tp=2"),
        ("dp=3", "dp=5"),
        ("tp=4", "pp=2,tp=2"),
        ("dp_replicate=2,dp=3", "cp=2,dp=2"),
        ("pp=2,vpp=2", "pp=4"),
        ("dp=7", "dp=2,tp=2,pp=2"),
    ],
)
def test_law3_bytes_moved_are_the_lower_bound(source, target):
    report = dynatrain.plan(source, target, llama(5, 24, 36, 50, kv_heads=1))

    assert report.bytes_moved == report.lower_bound_bytes
    for rank in report.ranks:
        assert rank.received_bytes == rank.lower_bound_bytes
    assert sum(rank.sent_bytes for rank in report.ranks) == report.bytes_moved


# Law 5: staging stays inside its budget, by cutting the same bytes into more stages.
@pytest.mark.parametrize("budget", [1 << 30, 300_000, 100_000])
def test_law5_staging_budget_splits_the_plan_into_stages(budget):
    tensors = llama(4, 64, 128, 256)
    report = dynatrain.plan("dp=4", "dp=2,tp=2", tensors, staging_budget_bytes=budget)
    busiest = max(rank.sent_bytes + rank.received_bytes for rank in report.ranks)

    assert max(rank.staging_bytes for rank in report.ranks) <= budget
    assert report.num_stages >= busiest / budget
    assert report.bytes_moved == report.lower_bound_bytes


def test_slower_links_raise_the_bound_in_proportion():
    fast = dynatrain.plan("dp=2", "tp=2", MATRIX, Topology(1e6, 0.0, 1e30))
    slow = dynatrain.plan("dp=2", "tp=2", MATRIX, Topology(1e5, 0.0, 1e30))

    assert slow.bound_seconds == pytest.approx(10 * fast.bound_seconds)


# Of the ranks that hold a replica the one on the needer's own node sends.
def test_senders_on_the_needer_s_node_are_preferred():
    report = dynatrain.plan("dp_replicate=2", "dp_replicate=4", MATRIX, Topology(ranks_per_node=2))

    assert sum(rank.sent_bytes for rank in report.ranks) == 2 * 8 * ROW_BYTES
    inside = dynatrain.plan("dp_replicate=3", "dp_replicate=4", MATRIX, Topology(ranks_per_node=2))
    assert [rank.sent_bytes for rank in inside.ranks] == [0, 0, 8 * ROW_BYTES, 0]


def test_json_has_the_fields_of_the_reference(reference_fields):
    report = dynatrain.plan("dp=2", "dp=4", MATRIX).to_json()

    assert set(report) == reference_fields("Plan")
    assert set(report["ranks"][0]) == reference_fields("Plan", of="ranks")
    assert set(report["timeline"][0]) == reference_fields("Plan", of="timeline")
    assert report["bytes_moved"] == sum(rank["received_bytes"] for rank in report["ranks"])


# Trainers that hand weights to others: nothing is kept, and each new rank gets all of its part.
def test_disjoint_targets_have_ranks_of_their_own():
    report = dynatrain.plan("dp=2", "tp=2", MATRIX, disjoint=True)
    half = 4 * ROW_BYTES

    assert report.is_disjoint
    assert [rank.received_bytes for rank in report.ranks] == [0, 0, half, half]
    assert [rank.sent_bytes for rank in report.ranks] == [half, half, 0, 0]
    assert report.bytes_kept == 0
    with pytest.raises(LayoutError, match="disjoint"):
        dynatrain.plan("dp=2", "tp=2", MATRIX, disjoint=1)


# A prediction below the bound would be one of the two that lies.
@pytest.mark.parametrize(
    ("source", "target"),
    [("dp=4", "dp=2,tp=2"), ("tp=4", "dp=3"), ("dp=2", "pp=2"), ("dp=1", "dp=4")],
)
@pytest.mark.parametrize("staging", [1 << 20, 256 << 20])
def test_a_switch_takes_no_less_in_virtual_time_than_its_bound(source, target, staging):
    links = Topology(1e9, 1e-3, 4e9, ranks_per_node=2, node_link_bytes_per_second=4e9)
    report = dynatrain.plan(source, target, llama(4, 256, 512, 1024), links, staging)

    assert report.predicted_seconds >= report.bound_seconds > 0
    assert report.timeline[-1].unpack_end <= report.predicted_seconds
    assert len(report.timeline) == report.num_stages


# What ranks of a host share takes as long as all of it together; what a switch takes anyway, once.
def test_cores_of_a_host_and_what_a_switch_takes_anyway_are_in_the_prediction():
    free = dynatrain.plan("dp=2", "tp=2", MATRIX, Topology(1e3, 0.0, 1e30))
    shared = Topology(1e3, 0.0, 1e30, host_bytes_per_second=1e3, switch_seconds=5.0)
    alone = dynatrain.plan("dp=2", "tp=2", MATRIX, shared)

    assert alone.predicted_seconds == pytest.approx(5.0 + 2 * free.predicted_seconds)
    assert alone.bound_seconds == free.bound_seconds


def test_model_with_fewer_layers_than_stages_is_refused():
    with pytest.raises(LayoutError, match="3 layers over 4 stages"):
        dynatrain.plan("dp=4", "pp=4", llama(3, 8, 16, 16))


# The busiest rank, the links and the rules of others are what a reader acts on.
def test_a_report_says_what_bounds_the_switch():
    links = Topology(1e9, 0.0, 1e30, ranks_per_node=2, node_link_bytes_per_second=4e9)
    report = dynatrain.plan("dp_replicate=2", "dp_replicate=4", MATRIX, links)
    whole = 8 * ROW_BYTES

    assert report.bytes_moved_far == report.bytes_moved == 2 * whole
    assert [rank.sent_far_bytes for rank in report.ranks] == [whole, whole, 0, 0]
    assert [rank.received_far_bytes for rank in report.ranks] == [0, 0, whole, whole]
    assert (report.bottleneck.link, report.bottleneck.size_bytes) == ("network", whole)
    assert report.bottleneck.seconds == report.bound_seconds == whole / 1e9
    assert report.egress.planned_bytes == report.egress.bound_bytes == whole
    assert report.egress.bound_ranks == [0, 1]
    assert report.egress.first_owner_bytes == 2 * whole


def test_a_rank_s_peak_is_both_of_its_states_and_staging():
    report = dynatrain.plan("dp=2", "tp=2", [TensorSpec("w", (8, 4), 1), TensorSpec("v", (4,))])
    # Rank 0 has rows 0-3 and half of v; then columns 0-1 and all of v.
    half, v = 4 * ROW_BYTES, ROW_BYTES

    assert [rank.source_bytes for rank in report.ranks] == [half + v // 2] * 2
    assert [rank.target_bytes for rank in report.ranks] == [half + v] * 2
    for rank in report.ranks:
        assert rank.peak_bytes == rank.source_bytes + rank.target_bytes + rank.staging_bytes


# What stays where it is is there once, and bounds nothing.
def test_what_is_adopted_counts_once():
    report = dynatrain.plan("dp=2", "dp=2", MATRIX)

    assert report.bottleneck is None
    assert [rank.peak_bytes for rank in report.ranks] == [4 * ROW_BYTES] * 2


def test_links_that_cannot_hold_the_ranks_are_refused():
    with pytest.raises(LayoutError, match="cannot hold 4 ranks"):
        dynatrain.plan("dp=2", "dp=4", MATRIX, Topology(ranks_per_node=1, num_nodes=3))


def test_unknown_dtype_is_refused():
    with pytest.raises(LayoutError, match="TensorSpec was given dtype='int3'"):
        dynatrain.plan("dp=2", "dp=4", [TensorSpec("w", (8, 4), dtype="int3")])


def held_by_torch(layout, spec):
    """What each rank holds of a tensor whose elements are numbered, cut by torch itself."""
    whole = torch.arange(math.prod(spec.shape)).reshape(spec.shape)
    held = []
    for rank in range(layout.world_size):
        part = whole
        for axis, dim in (("tp", spec.tp_dim), ("dp_shard", 0)):
            parts = part.chunk(layout.size(axis), dim)
            coordinate = layout.coordinate(rank, axis)
            part = parts[coordinate] if coordinate < len(parts) else part[:0]
        held.append(set(part.flatten().tolist()))
    return held


# Sizes that an axis does not divide leave shorter and empty shards, and a plan that rounded would
# promise bytes that no switch moves.
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("tp=3", "dp=3"),
        ("dp=3,tp=2", "dp=2,tp=3"),
        ("dp=5", "tp=5"),
        ("dp=7,tp=3", "dp=2"),
        ("dp=20", "tp=3"),
        ("dp=2,tp=2,order=tp:pp:dp_replicate:dp_shard:cp", "tp=4"),
    ],
)
@pytest.mark.parametrize("shape", [(10, 4), (16, 7), (4, 4096), (3, 1)])
@pytest.mark.parametrize("tp_dim", [0, 1])
def test_sizes_that_do_not_divide_are_cut_as_torch_cuts_them(source, target, shape, tp_dim):
    spec = TensorSpec("w", shape, tp_dim)
    report = dynatrain.plan(source, target, [spec])
    before = held_by_torch(Layout.parse(source), spec)
    after = held_by_torch(Layout.parse(target), spec)

    num_ranks = max(len(before), len(after))
    before += [set()] * (num_ranks - len(before))
    after += [set()] * (num_ranks - len(after))
    pairs = list(zip(before, after, strict=True))
    assert received(report) == [12 * len(then - now) for now, then in pairs]
    assert kept(report) == [12 * len(then & now) for now, then in pairs]
