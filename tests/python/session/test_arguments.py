"""Every argument of a public call is looked at before anything is done."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

import dynatrain
import training_jobs as jobs
from dynatrain import DeviceError, Layout, LayoutError, World, arguments

NAN, HUGE, LONE = float("nan"), 1 << 80, "a\ud800b"


class OnlyItems:
    """No mapping, though its items look like those of one."""

    def items(self):
        return [("a", "b")]


WRONG = {
    "build": [None, 3, "build"],
    "layout": [None, 3, b"dp=1", LONE, "", "dp=0", "dp=-1", f"dp={HUGE}", "xx=2", ...],
    "initialize": [3, "fill"],
    "groups": [3, {}],
    "keep": [[1], {1: "a"}, {LONE: 1}, "a", 3, OnlyItems()],
    "device": ["xyz", "", 3, LONE, b"cpu", "cpu:x", True],
    "timeout_s": [0, -1, NAN, float("inf"), 1e300, 1e-9, "60", None, True, 1 << 2000],
    "staging_budget_bytes": [0, -1, 1023, NAN, 1.5, HUGE, "1", None, True],
    "memory_budget_bytes": [-1, NAN, 1.5, HUGE, "1", True],
    "num_threads": [0, -1, NAN, 1.5, HUGE, "1", True],
    "transport": ["", "ib", None, 3, ["auto"], LONE],
    "verify": ["sums", None, 3, ["sum"], [1], [["sums"]], {LONE}],
    "seed": [NAN, 1.5, HUGE, -HUGE, "1", None, True],
}


def four_parts(error):
    """Whether a message says what was refused, what was expected, what remains, what to do."""
    lines = str(error).splitlines()
    remains = ("nothing was", "no layout was made", "intact")
    return len(lines) >= 4 and any(word in str(error) for word in remains)


# What is found at the first switch is found after days of training.
@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
    ids=lambda value: ascii(value)[:30],
)
def test_wrong_argument_of_init_is_refused_before_anything_is_started(alone, name, value):
    given = {"build": jobs.build, "layout": "dp=1", name: value}
    with pytest.raises((LayoutError, DeviceError)) as refused:
        dynatrain.init(given.pop("build"), given.pop("layout"), **given)

    assert four_parts(refused.value)
    assert name in str(refused.value) or name == "layout"
    assert not dist.is_initialized()


@pytest.mark.parametrize("value", [1, 20.5, torch.tensor(30).item()])
def test_numbers_of_any_class_are_taken(start, value):
    import numpy as np

    options = {"staging_budget_bytes": np.int64(1 << 20), "seed": np.uint64((1 << 64) - 1)}
    session = start(timeout_s=value, verify={"sums": 1}, device=torch.device("cpu"), **options)
    session.switch("dp=1")


@pytest.mark.parametrize("call", ["switch", "prepare", "check", "request"])
@pytest.mark.parametrize("layout", [None, 3, LONE, "", "dp=0", "tp=two", object()])
def test_wrong_layout_is_refused_by_every_call(start, call, layout):
    session = start()
    with pytest.raises(LayoutError) as refused:
        getattr(session, call)(layout)

    assert four_parts(refused.value)
    session.switch("dp=1")


# A name that is misspelt and ignored would be found as a missing tensor, or not at all.
@pytest.mark.parametrize("call", ["switch", "prepare", "check"])
@pytest.mark.parametrize(
    "names",
    [
        *(3, "head", [("a", "b")], OnlyItems(), {1: "a"}, {"a": None}, {LONE: "a"}),
        {"head.wieght": "top"},
    ],
)
def test_wrong_names_are_refused_by_every_call(start, call, names):
    session = start()
    with pytest.raises(LayoutError, match="names=") as refused:
        getattr(session, call)("dp=1", names=names)

    assert four_parts(refused.value)
    if isinstance(names, dict) and "head.wieght" in names:
        assert "'head.weight'" in str(refused.value)  # the advice: what it may have meant
    session.switch("dp=1")


# The model was blamed for a tensor that the caller had named.
@pytest.mark.parametrize("call", ["switch", "prepare", "check"])
def test_names_that_lead_nowhere_are_refused_by_every_call(start, call):
    session = start()
    with pytest.raises(LayoutError, match="leads to no tensor that build makes") as refused:
        getattr(session, call)("dp=1", names={"head.weight": "haed.weight"})

    assert four_parts(refused.value)
    assert "near it are ['head.weight'" in str(refused.value)
    session.switch("dp=1")


def test_names_that_bring_two_tensors_to_one_are_refused_with_both(start):
    session = start()
    with pytest.raises(LayoutError, match=r"by names= of \['head.bias'\]"):
        session.switch("dp=1", names={"head.bias": "head.weight"})
    session.switch("dp=1")


# The model was blamed for names that the caller had swapped.
def test_names_that_lead_to_another_shape_are_told_to_be_looked_at(start):
    session = start()
    jobs.train_step(session.state, session.world, 0)  # slots, which are made by the shape
    with pytest.raises(LayoutError, match="names= of the call, if it has them"):
        session.switch("dp=1", names={"head.weight": "head.bias", "head.bias": "head.weight"})
    session.switch("dp=1")


@pytest.mark.parametrize("total", [-1, NAN, float("inf"), 2.5, "3", None, True])
def test_wrong_number_of_steps_is_refused_at_the_call(start, total):
    session = start()
    with pytest.raises(LayoutError, match="whole number"):
        session.steps(total)


def test_callback_that_cannot_be_called_is_refused(start):
    with pytest.raises(LayoutError, match="on_switch"):
        start().on_switch(3)


WRONG_LAYOUTS = [
    {"dp": "2"},
    {"tp": 1.5},
    {"pp": NAN},
    {"cp": HUGE},
    {"ep": None},
    {"tp": True},
    {"stages": 3},
    {"stages": ["a"]},
    {"order": 3},
    {"order": [LONE, "pp"]},
    {"dp": 2, "dp_shard": 2},
]


@pytest.mark.parametrize("sizes", WRONG_LAYOUTS, ids=str)
def test_wrong_sizes_of_a_layout_are_refused_by_name(sizes):
    with pytest.raises(LayoutError) as refused:
        Layout(**sizes)

    assert four_parts(refused.value)
    assert next(iter(sizes)) in str(refused.value)


@pytest.mark.parametrize(
    "ask",
    [
        lambda layout: layout.size(3),
        lambda layout: layout.size("xx"),
        lambda layout: layout.size(LONE),
        lambda layout: layout.coordinate("0", "tp"),
        lambda layout: layout.coordinate(99, "tp"),
        lambda layout: layout.group(0, 3),
        lambda layout: layout.layers(None, 4),
        lambda layout: layout.layers(0, torch.tensor(2.5)),
        lambda layout: layout.group(torch.tensor(0.5), "tp"),
        lambda layout: Layout.parse(None),
        lambda layout: Layout.parse(LONE),
    ],
)
def test_wrong_question_to_a_layout_is_refused(ask):
    with pytest.raises(LayoutError):
        ask(Layout(tp=2))


def test_unknown_axis_of_a_world_is_refused(start):
    world: World = start().world
    for ask in (world.size, world.enabled, world.coordinate, world.group, world.mesh_over):
        with pytest.raises(LayoutError, match="xx"):
            ask("xx")


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": None},
        {"target": LONE},
        {"tensors": []},
        {"tensors": 3},
        {"tensors": ["w"]},
        {"topology": 3},
        {"staging_budget_bytes": NAN},
        {"staging_budget_bytes": -1},
    ],
    ids=ascii,
)
def test_wrong_argument_of_plan_is_refused(wrong):
    spec = dynatrain.TensorSpec("w", (8, 8), 0, (0,))
    given = {"source": "dp=2", "target": "tp=2", "tensors": [spec]} | wrong
    with pytest.raises(LayoutError):
        dynatrain.plan(**given)


# Rank 0 alone writes traces; without its folder a run that was to be watched is not.
@pytest.mark.parametrize("folder", ["file", "/proc", "/proc/self/nothing"])
def test_trace_folder_that_takes_no_file_is_refused(alone, monkeypatch, tmp_path, folder):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DYNATRAIN_TRACE", str(tmp_path / folder))
    with pytest.raises(LayoutError, match="DYNATRAIN_TRACE") as refused:
        dynatrain.init(jobs.build, "dp=1")

    assert four_parts(refused.value)
    if dist.is_initialized():
        dist.destroy_process_group()


# Each start of a large job takes minutes: one that is told a difference at a time takes many.
def test_all_arguments_that_differ_between_ranks_are_told_at_once():
    ranks = [
        {"layout": "dp=2", "seed": str(n // 2), "verify": "x", "keep": str(n)} for n in (0, 1, 2)
    ]
    with pytest.raises(LayoutError) as caught:
        arguments._check_same(ranks)

    assert str(caught.value).startswith("session: ranks called init with a different seed, keep\n")
    assert "  rank 1: seed=0, keep=1\n" in str(caught.value)
    assert "verify" not in str(caught.value)
