"""Tensors that steps hang on parameters come back as what they were: DTensors, or plain shards."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.tensor import DTensor

import dynatrain
import training_jobs as jobs
from training_jobs import local_of


def step_on_shards(state):
    """Both are made by the first step alone, as gradient buffers and fused optimizers make them."""
    with torch.no_grad():
        for param in state.model.parameters():
            if not hasattr(param, "main_grad"):
                param.main_grad = torch.zeros_like(local_of(param), dtype=torch.float64)
                param.momentum = torch.zeros_like(param, requires_grad=False)
            param.main_grad.add_(local_of(param).double())  # an error for a DTensor
            param.momentum.add_(param)  # an error for a plain tensor beside a DTensor
            local_of(param).sub_(param.main_grad.float() * 0.125 + local_of(param.momentum) * 0.25)


def follow(rank, world_size, path):
    session = dynatrain.init(jobs.build, path[0], initialize=jobs.initialize, timeout_s=40)
    kinds, weights = set(), {}
    for step in session.steps(len(path)):
        step_on_shards(session.state)
        for param in session.state.model.parameters():
            if isinstance(param, DTensor):
                kinds.add((type(param.main_grad).__name__, type(param.momentum).__name__))
        weights = {n: jobs.whole(p) for n, p in session.state.model.named_parameters()}
        if step + 1 < len(path):
            session.switch(path[step + 1])
    session.close()
    return kinds, weights


# A step that computes on the shard fails on a DTensor, or computes on something else. A whole
# parameter between two sharded layouts says nothing of it: what was plain stays known.
@pytest.mark.parametrize(
    "path", [["dp=2", "dp=4", "dp=2,tp=2"], ["tp=2", "dp=1", "dp=4"], ["dp=4", "dp=1", "dp=3"]]
)
def test_a_plain_tensor_on_a_sharded_parameter_comes_back_plain(pool, path):
    switched = pool.run(follow, path, world_size=4, timeout_s=80)
    plain = pool.run(follow, ["dp=1"] * len(path), world_size=4, timeout_s=80)[0][1]

    for kinds, weights in switched[:2]:
        assert kinds == {("Tensor", "DTensor")}
        for name, weight in weights.items():
            assert torch.equal(weight, plain[name]), name
