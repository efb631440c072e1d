"""Hooks, gradient dtypes, classes and attributes of parameters are there in every layout."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

import dynatrain
import training_jobs as jobs
from dynatrain import TrainState


class ExpertParameter(nn.Parameter):
    pass


def local_of(tensor):
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def build(world):
    """The head's bias is frozen by a mask; blocks are stepped by hooks in the backward pass."""
    state = jobs.build(world)
    model = state.model
    model.own = nn.Module()
    model.own.weight = ExpertParameter(torch.zeros(3))
    model.ran = []
    model.head.bias.register_hook(lambda grad: grad * 0)
    optimizers = {}
    for name, param in model.blocks.named_parameters():
        param.tag = name
        optimizers[param] = torch.optim.SGD([param], lr=0.125)

        def step(param):
            optimizers[param].step()
            param.grad = None
            model.ran.append(param.tag)

        param.register_post_accumulate_grad_hook(step)
    rest = [*model.head.parameters(), *model.own.parameters()]
    return TrainState(model, [torch.optim.SGD(rest, lr=0.1), *optimizers.values()])


def train(rank, world_size, path):
    session = dynatrain.init(build, path[0], initialize=start, timeout_s=40)
    seen = []
    for step in session.steps(len(path)):
        state, model = session.state, session.state.model
        model.ran.clear()
        before = local_of(model.head.bias).detach().clone()
        moved = local_of(model.blocks[0].up.weight).detach().clone()
        loss = model(torch.ones(2, jobs.WIDTH)).square().mean()
        loss.backward()
        state.optimizers[0].step()
        state.optimizers[0].zero_grad()
        seen.append(
            (
                # fully_shard sets gradients without running tensor hooks, in any job.
                isinstance(model.head.bias, DTensor) or torch.equal(before, model.head.bias),
                not moved.numel() or not torch.equal(moved, local_of(model.blocks[0].up.weight)),
                sorted(model.ran) == sorted(n for n, _ in model.blocks.named_parameters()),
                type(model.own.weight).__name__,
            )
        )
        if step + 1 < len(path):
            session.switch(path[step + 1])
    session.close()
    return seen


def start(state, world):
    jobs.initialize(state, world)


# A mask that is gone lets frozen rows move, and an optimizer in the backward pass never runs again:
# neither is an error to torch, in plain tensors or in the shards of fully_shard and of TP.
@pytest.mark.parametrize(
    "path", [["dp=1", "dp=2", "dp=4"], ["dp=4", "dp=1"], ["tp=2", "dp=2,tp=2", "dp_replicate=2"]]
)
def test_hooks_and_classes_of_parameters_outlive_a_switch(pool, path):
    results = pool.run(train, path, world_size=4, timeout_s=80)

    for rank, seen in enumerate(results):
        assert seen == [(True, True, True, "ExpertParameter")] * len(seen), f"rank {rank}"
    assert len(results[0]) == len(path)
