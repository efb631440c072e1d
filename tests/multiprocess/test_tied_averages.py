"""Averages of tied weights, and the fingerprint of a tied state, in and out of a pipeline."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import dynatrain
import training_jobs as jobs
from dynatrain import TrainState
from training_jobs import local_of

NUM_LAYERS = 2


class Average:
    """An average of what a ``state_dict`` has; both names of a tied weight are two entries."""

    def __init__(self, model):
        self.mean = {name: tensor.detach().clone() for name, tensor in self.entries(model)}

    def entries(self, model):
        return model.state_dict(keep_vars=True).items()

    def update(self, model):
        for name, tensor in self.entries(model):
            local_of(self.mean[name]).lerp_(local_of(tensor.detach()), 0.5)

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state_dict):
        self.mean = state_dict["mean"]


class OnceAverage(Average):
    """An entry for each parameter: a tied one under its first name only."""

    def entries(self, model):
        return model.named_parameters()


class TiedAverage(Average):
    """Ties the entries of a tied weight, as a copy of the model would."""

    def __init__(self, model):
        once = {id(p): p.detach().clone() for p in model.parameters()}
        self.mean = {name: once[id(param)] for name, param in self.entries(model)}

    def update(self, model):
        known = dict(self.entries(model))
        for mean, name in {id(mean): (mean, name) for name, mean in self.mean.items()}.values():
            local_of(mean).lerp_(local_of(known[name].detach()), 0.5)


AVERAGES = {kind.__name__: kind for kind in (Average, OnceAverage, TiedAverage)}


def build_with(kind):
    def build(world):
        stage = nn.Module()
        layers = [layer for part in world.layers(NUM_LAYERS) for layer in part]
        stage.layers = nn.ModuleDict({str(i): nn.Linear(6, 6) for i in layers})
        if 0 in layers:
            stage.embed = nn.Embedding(8, 6)
        if NUM_LAYERS - 1 in layers:
            stage.output = nn.Linear(6, 8, bias=False)
        if world.enabled("tp"):
            plan = {"embed": RowwiseParallel(), "output": ColwiseParallel()}
            held = {name: style for name, style in plan.items() if hasattr(stage, name)}
            parallelize_module(stage, world.mesh["tp"], held)
        if hasattr(stage, "embed") and hasattr(stage, "output"):
            stage.output.weight = stage.embed.weight
        for param in stage.parameters():
            param.main_grad = torch.zeros_like(param, requires_grad=False)
        optimizer = torch.optim.AdamW(stage.parameters(), lr=0.1, foreach=False)
        return TrainState(stage, optimizer, extra={"ema": AVERAGES[kind](stage)})

    return build


def fill(state, world):
    with torch.no_grad():
        for param in state.model.parameters():
            local_of(param).copy_(local_of(param).fill_(0.75).cumsum(-1))


def step_by_hand(state, step):
    """Gradients that tied copies share, as an all-reduce between their stages would give them."""
    for param in state.model.parameters():
        param.grad = param.detach() * 0.25 + 0.125 * step
        local_of(param.main_grad).add_(local_of(param.grad))
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.extra["ema"].update(state.model)


def follow(rank, world_size, path, kind):
    session = dynatrain.init(build_with(kind), path[0], initialize=fill, timeout_s=40)
    before, after, means = {}, {}, {}
    for step in session.steps(len(path)):
        after[step] = session.fingerprint()
        step_by_hand(session.state, step)
        means = {name: jobs.whole(mean) for name, mean in session.state.extra["ema"].mean.items()}
        if step + 1 < len(path):
            before[step + 1] = session.fingerprint()
            session.switch(path[step + 1])
    session.close()
    return (before, after), means


# Both names of a tied weight are entries of nearly every average; a job that had one could not
# leave a pipeline, nor go to one.
@pytest.mark.parametrize("kind", sorted(AVERAGES))
@pytest.mark.parametrize("path", [["dp=1", "pp=2", "dp=1"], ["tp=2", "pp=2,tp=2", "dp=2"]])
def test_an_average_of_tied_weights_goes_to_and_from_a_pipeline(pool, path, kind):
    switched = pool.run(follow, path, kind, world_size=4, timeout_s=90)
    plain = pool.run(follow, ["dp=1"] * len(path), kind, world_size=4, timeout_s=60)[0][1]

    means = switched[0][1]
    assert means.keys() == plain.keys()
    for name in means:
        assert torch.equal(means[name], plain[name]), name


# A state was told from itself: one tensor here, two copies of it there.
@pytest.mark.parametrize("kind", sorted(AVERAGES))
def test_the_fingerprint_of_a_tied_state_is_the_same_in_every_layout(pool, kind):
    path = ["dp=1", "pp=2", "tp=2", "dp=2", "pp=2,tp=2"]

    for (before, after), _ in pool.run(follow, path, kind, world_size=4, timeout_s=90)[:2]:
        both = before.keys() & after.keys()
        assert both
        for step in both:
            assert before[step] == after[step], path[step]


def report_of(rank, world_size, source, target):
    session = dynatrain.init(
        build_with("Average"), source, initialize=fill, timeout_s=40, verify=("fingerprint",)
    )
    before = session.fingerprint()
    report = session.switch(target)
    after = session.fingerprint()
    session.close()
    return {before, report.fingerprint_before, report.fingerprint_after, after}


# Layouts that tie alike name a tied tensor once while they switch; its report says what the
# session says of the same state.
@pytest.mark.parametrize(("source", "target"), [("dp=1", "dp=2"), ("dp=2", "pp=2")])
def test_the_report_says_the_fingerprint_of_the_session(pool, source, target):
    for prints in pool.run(report_of, source, target, world_size=2, timeout_s=60):
        assert len(prints) == 1
