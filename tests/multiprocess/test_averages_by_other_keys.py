"""Averages under keys that name no parameter: cut in one layout, plain in another."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import dynatrain
import training_jobs as jobs
from dynatrain import LayoutError, TrainState


class Average:
    """An average of each parameter, under ``key(fqn)``."""

    def __init__(self, model, key):
        self.mean = {key(name): param.detach().clone() for name, param in model.named_parameters()}

    def state_dict(self):
        return self.mean

    def load_state_dict(self, state_dict):
        self.mean = dict(state_dict)


def build_with(key):
    def build(world):
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
        if world.enabled("tp"):
            cut = {"0": ColwiseParallel(), "1": RowwiseParallel()}
            parallelize_module(model, world.mesh["tp"], cut)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return TrainState(model, optimizer, extra={"average": Average(model, key)})

    return build


def fill(state, world):
    with torch.no_grad():
        for tensor in [*state.model.parameters(), *state.extra["average"].mean.values()]:
            jobs.local_of(tensor).fill_(0.5)


def by_other_keys(rank, world_size, source, target):
    torch.manual_seed(3)
    session = dynatrain.init(build_with("average of {}".format), source, timeout_s=30)
    with pytest.raises(LayoutError) as refused:
        session.switch(target)
    return str(refused.value)


def by_names(rank, world_size, source, target):
    session = dynatrain.init(build_with(str), source, initialize=fill, timeout_s=30)
    session.switch(target)
    return {name: jobs.whole(mean) for name, mean in session.state.extra["average"].mean.items()}


# "Build the same model in both layouts": it is the same, and its owner searched for days.
@pytest.mark.parametrize(("source", "target"), [("dp=2", "tp=2"), ("tp=2", "dp=2")])
def test_the_object_and_its_key_are_named(pool, source, target):
    for text in pool.run(by_other_keys, source, target, world_size=2, timeout_s=60):
        assert "extra.average has a tensor at 'average of 0.bias' that is cut in the" in text
        assert "in a dict by the FQNs of parameters" in text


# The last line of the refusal.
@pytest.mark.parametrize(("source", "target"), [("dp=2", "tp=2"), ("tp=2", "dp=2")])
def test_under_the_names_of_parameters_it_travels(pool, source, target):
    for means in pool.run(by_names, source, target, world_size=2, timeout_s=60):
        assert all(mean.eq(0.5).all() for mean in means.values())
