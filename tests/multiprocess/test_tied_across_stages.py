"""Tied embeddings to and from a pipeline: one parameter, or a copy on each of two stages."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

import dynatrain
import training_jobs as jobs
from dynatrain import LayoutError, TrainState
from training_jobs import local_of

NUM_LAYERS = 4


def build(world):
    """An embedding tied to the output; with pp each of the two stages has its own copy."""
    stage = nn.Module()
    layers = [layer for part in world.layers(NUM_LAYERS) for layer in part]
    stage.layers = nn.ModuleDict({str(i): nn.Linear(6, 6) for i in layers})
    if 0 in layers:
        stage.embed = nn.Embedding(9, 6)
    if NUM_LAYERS - 1 in layers:
        stage.output = nn.Linear(6, 9, bias=False)
    if hasattr(stage, "embed") and hasattr(stage, "output"):
        stage.output.weight = stage.embed.weight
    if world.enabled("dp_shard"):
        fully_shard(stage, mesh=world.mesh["dp_shard"])
    return TrainState(stage, torch.optim.AdamW(stage.parameters(), lr=0.1, foreach=False))


def fill(state, world):
    with torch.no_grad():
        for param in state.model.parameters():
            local_of(param).fill_(0.75)


def step_by_hand(state, step):
    """Gradients that tied copies share, as an all-reduce between their stages would give them."""
    for param in state.model.parameters():
        param.grad = param.detach() * 0.25 + 0.125 * step
    state.optimizer.step()
    state.optimizer.zero_grad()


def follow(rank, world_size, path, mode="retain"):
    verify = ("fingerprint",)
    session = dynatrain.init(
        build, path[0], initialize=fill, timeout_s=40, verify=verify, mode=mode
    )
    held, moved = {}, []
    for step in session.steps(2 * len(path)):
        step_by_hand(session.state, step)
        model = session.state.model
        if hasattr(model, "embed") and hasattr(model, "output"):
            assert model.embed.weight is model.output.weight
        held = whole_by_name(session.state)
        at, inside = divmod(step + 1, 2)
        if inside == 0 and at < len(path):
            report = session.switch(path[at])
            assert report.fingerprint_before == report.fingerprint_after
            moved.append(report.bytes_moved)
    session.close()
    return held, moved


def whole_by_name(state):
    model, optimizer = state.model, state.optimizer
    return {
        name: (jobs.whole(param), *map(jobs.whole, optimizer.state[param].values()))
        for name, param in model.named_parameters(remove_duplicate=False)
    }


# One name on one side and two on the other: refused, though nothing could be clearer.
@pytest.mark.parametrize(
    "path",
    [
        ["dp=1", "pp=2"],
        ["pp=2", "dp=1"],
        ["dp=2", "dp=2,pp=2", "dp=4"],
        ["dp=2,pp=2", "dp=2", "pp=2"],
        ["pp=2", "dp=2,pp=2", "dp=1", "dp=3", "pp=4"],
    ],
)
def test_tied_embeddings_go_to_and_from_a_pipeline_bit_for_bit(pool, path):
    are_as_without_a_switch(pool, path, "retain")


# What is freed meanwhile is compared before: equal copies must not be taken for others.
def test_tied_embeddings_are_streamed_to_and_from_a_pipeline_bit_for_bit(pool):
    are_as_without_a_switch(pool, ["dp=2,pp=2", "dp=2", "pp=2", "dp=3", "pp=4"], "stream")


def are_as_without_a_switch(pool, path, mode):
    switched = pool.run(follow, path, mode, world_size=4, timeout_s=90)
    plain = pool.run(follow, ["dp=1"] * len(path), world_size=4, timeout_s=60)[0][0]

    seen = set()
    for held, _ in switched[: dynatrain.Layout.parse(path[-1]).world_size]:
        seen |= held.keys()
        for name, tensors in held.items():
            for ours, theirs in zip(tensors, plain[name], strict=True):
                assert torch.equal(ours, theirs), name
    assert seen == plain.keys()


# Between layouts that tie alike the second name would only cost bytes.
def test_layouts_that_tie_alike_move_the_tied_tensor_once(pool):
    _, moved = pool.run(follow, ["dp=1", "dp=2"], world_size=2, timeout_s=60)[0]
    elements = 9 * 6 + NUM_LAYERS * (6 * 6 + 6)

    assert moved[0] < elements * 4 * 3


def part_ways(rank, world_size, mode, source, what):
    session = dynatrain.init(build, source, initialize=fill, timeout_s=40, mode=mode)
    text = ""
    for step in session.steps(2):
        step_by_hand(session.state, step)
        model = session.state.model
        held = {}
        if step == 0 and hasattr(model, "output"):
            weight = model.output.weight
            held = {"param": weight.detach(), **session.state.optimizer.state[weight]}
            right = local_of(held[what]).clone()
            local_of(held[what])[-1] += 1
        try:
            session.switch("dp=1")
        except LayoutError as error:
            text += f"step {step}: {error}"
        if held:
            local_of(held[what]).copy_(right)
    layout = str(session.layout)
    session.close()
    return text, layout


# Copies that went apart cannot be one tensor again: either of them would bend the run.
# Where the source is freed meanwhile that was known behind the vote alone, and ended the job.
@pytest.mark.parametrize("mode", ["retain", "stream"])
@pytest.mark.parametrize(
    ("source", "what"), [("pp=2", "param"), ("pp=2", "exp_avg"), ("dp=2,pp=2", "exp_avg_sq")]
)
def test_copies_that_differ_are_refused_on_every_rank_and_training_goes_on(
    pool, mode, source, what
):
    world_size = dynatrain.Layout.parse(source).world_size
    told = pool.run(part_ways, mode, source, what, world_size=world_size, timeout_s=60)

    for text, layout in told:
        assert f"'output.weight|{what}'" in text
        assert "step 0: " in text
        assert "differ in the source" in text
        assert "step 1: " not in text
        assert layout == "dp=1"
