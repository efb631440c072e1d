"""Layouts by an estimate of a step, against sums by hand and against plans."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import dynatrain
from dynatrain import Layout, LayoutError, TensorSpec, Topology
from dynatrain.planning import Batch, Model, load_model, rank_layouts, topology
from dynatrain.tools import cli

#: Ten operations a second at the half that is reached, 10 bytes a second near and 1 far.
LINKS = Topology(
    link_bytes_per_second=1,
    ranks_per_node=2,
    node_link_bytes_per_second=10,
    flops_per_second=20,
    device_memory_bytes=1e9,
)
#: Two layers of 8 x 8: 128 parameters, 12 bytes each.
TWO_LAYERS = Model("", tuple(TensorSpec(f"layers.{i}.w", (8, 8), 0, (i,)) for i in range(2)))
BATCH = Batch(sequences=4, sequence_length=16)


def by_layout(rows):
    return {row.layout: row for row in rows}


# 64 tokens, each of 6 operations with 128 parameters and with attention to 2 x 8 x 16 elements.
def test_one_rank_computes_all():
    (row,) = rank_layouts(TWO_LAYERS, LINKS, BATCH, 1)

    assert Layout.parse(row.layout) == Layout()
    assert row.step_seconds == row.compute_seconds == 6 * 64 * (128 + 2 * 8 * 16) / 10
    assert (row.dp_seconds, row.tp_seconds, row.ep_seconds) == (0, 0, 0)
    assert row.state_bytes == 128 * 12
    assert row.memory_bytes == 128 * 12 + 128 * 4 + 34 * 16 * 8 * 2


def test_parallel_ranks_share_the_work_and_pay_for_it():
    rows = by_layout(rank_layouts(TWO_LAYERS, LINKS, BATCH, 2))
    alone = 6 * 64 * (128 + 2 * 8 * 16) / 10

    assert set(rows) == {"dp=2", "dp_replicate=2", "tp=2", "pp=2"}
    # Of 2 bytes a parameter, half come from the other rank: gathered twice, reduced once.
    assert rows["dp=2"].dp_seconds == pytest.approx(3 * 0.5 * 2 * 128 / 10)
    # Gradients to the other replica and back.
    assert rows["dp_replicate=2"].dp_seconds == pytest.approx(2 * 0.5 * 2 * 128 / 10)
    apart = by_layout(rank_layouts(TWO_LAYERS, replace(LINKS, ranks_per_node=1), BATCH, 2))
    assert apart["dp=2"].dp_seconds == 10 * rows["dp=2"].dp_seconds
    assert not any(Layout.parse(layout).tp > 1 for layout in apart)
    # Four sums of 64 tokens in either layer, to and from the other rank, of half of the bytes.
    assert rows["tp=2"].tp_seconds == pytest.approx(4 * 2 * 0.5 * 64 * 2 * 8 * 2 / 10)
    # Four micro-batches, and one more that the second stage waits for.
    assert rows["pp=2"].compute_seconds == pytest.approx(alone / 2 * 5 / 4)
    for row in rows.values():
        longer = max(row.compute_seconds, row.dp_seconds)
        assert row.step_seconds == pytest.approx(longer + row.tp_seconds + row.ep_seconds)


# What is listed first must fit, and what is said of the state must be what a map says.
def test_layouts_that_fit_come_first_and_state_is_that_of_the_map():
    model = load_model("qwen3-30b-a3b", "adamw-mixed")
    rows = rank_layouts(model, topology("dgx-a100"), Batch(64), 16, most=100)

    assert all(Layout.parse(row.layout).world_size == 16 for row in rows)
    assert any(Layout.parse(row.layout).ep > 1 for row in rows)
    fits = [row.fits for row in rows]
    assert fits == sorted(fits, reverse=True)
    assert all(row.fits == (row.memory_bytes <= 0.9 * 80e9) for row in rows)
    steps = [row.step_seconds for row in rows if row.fits]
    assert steps == sorted(steps)
    for row in rows[:3]:
        report = dynatrain.plan(row.layout, row.layout, model)
        assert row.state_bytes == max(rank.target_bytes for rank in report.ranks)


def test_the_way_is_that_of_the_plan_and_takes_the_mode_that_there_is_room_for():
    model = Model("", tuple(TensorSpec(f"layers.{i}.w", (512, 512), 0, (i,)) for i in range(32)))
    start, batch = "dp=4", Batch(sequences=4, sequence_length=1)
    plans = {mode: dynatrain.plan(start, "pp=4", model, LINKS, mode=mode) for mode in MODES}
    peaks = {mode: plans[mode].fullest_rank.peak_bytes for mode in MODES}
    assert peaks["stream"] < peaks["retain"]

    for mode, room in (("retain", peaks["retain"]), ("stream", peaks["retain"] - 1)):
        links = replace(LINKS, device_memory_bytes=room)
        row = by_layout(rank_layouts(model, links, batch, 4, start, most=100))["pp=4"]
        assert (row.switch_mode, row.through) == (mode, ())
        assert row.switch_seconds == plans[mode].predicted_seconds
    links = replace(LINKS, device_memory_bytes=peaks["stream"] / 4)
    row = by_layout(rank_layouts(model, links, batch, 4, start, most=100))["pp=4"]
    assert (row.fits, row.switch_seconds, row.switch_mode) == (False, None, "")


MODES = ("retain", "stream")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"topology": Topology()}, "flops_per_second"),
        ({"batch": 4}, "Batch"),
        ({"num_ranks": 0}, "num_ranks"),
        ({"num_ranks": 8}, "sequences"),
        ({"most": 0}, "most"),
        ({"current": "dp=x"}, "dp"),
    ],
)
def test_what_cannot_be_ranked_is_refused_by_name(change, named):
    one_layer = Model("", (TensorSpec("layers.0.w", (7, 7), 0, (0,)),))
    asked = {"model": one_layer, "topology": LINKS, "batch": BATCH, "num_ranks": 1, **change}
    with pytest.raises(LayoutError, match=named):
        rank_layouts(**asked)


def test_command_prints_what_the_function_returns(reference_fields, capsys):
    asked = ["layouts", "--topology=dgx-h100", "--ranks=8", "--sequences=16", "--most=3"]
    assert cli.main([*asked, "--from=dp=8", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert cli.main(asked) == 0
    printed = capsys.readouterr().out

    assert [row["layout"] for row in rows] == [
        row.layout
        for row in rank_layouts(load_model("llama3-8b"), topology("dgx-h100"), Batch(16), 8, most=3)
    ]
    assert all(set(row) == reference_fields("Layouts") for row in rows)
    assert all(row["layout"] in printed for row in rows)
    assert cli.main(["layouts", "--topology=one-host", "--ranks=2"]) == 1
    assert "flops_per_second" in capsys.readouterr().err
