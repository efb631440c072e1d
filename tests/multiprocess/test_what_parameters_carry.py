"""Hooks, gradient dtypes, classes and attributes of parameters are there in every layout."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import dynatrain
import training_jobs as jobs
from dynatrain import TrainState
from training_jobs import local_of


class ExpertParameter(nn.Parameter):
    pass


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


def build_with_main_grads(world):
    """Every parameter has a tensor of its shape, a plain one of its shard's shape, and a scalar."""
    state = jobs.build(world)
    for param in state.model.parameters():
        param.main_grad = torch.zeros_like(param, requires_grad=False)
        param.local_grad = torch.zeros(local_of(param).shape, dtype=torch.float64)
        param.scale = torch.zeros(())
    return state


def move_by_main_grads(state, step):
    """Elements of a fixed function of the weights: the same in every layout."""
    with torch.no_grad():
        for param in state.model.parameters():
            weight = local_of(param)
            local_of(param.main_grad).mul_(0.5).add_(weight)
            param.local_grad.add_(weight.double() * step)
            param.scale.add_(1)
            weight.sub_(local_of(param.main_grad) * 0.25 + param.local_grad.float() * 0.125)


def follow_main_grads(rank, world_size, path):
    session = dynatrain.init(
        build_with_main_grads, path[0], initialize=start, timeout_s=40, verify=("fingerprint",)
    )
    found = None
    for step in session.steps(len(path)):
        move_by_main_grads(session.state, step)
        found = {
            name: (jobs.whole(param), jobs.whole(param.main_grad), param.scale.item())
            for name, param in session.state.model.named_parameters()
        }
        if step + 1 < len(path):
            report = session.switch(path[step + 1])
            assert report.fingerprint_before == report.fingerprint_after
    session.close()
    return found


# On meta, `weight.sub_(main_grad)` is silent: a switch stopped training and nobody was told.
def test_tensors_on_parameters_are_cut_and_moved_as_their_parameters(pool):
    path = ["dp=4", "dp=2,tp=2", "dp=1", "dp_replicate=2,dp=2"]
    switched = pool.run(follow_main_grads, path, world_size=4, timeout_s=80)
    plain = pool.run(follow_main_grads, ["dp=1"] * len(path), world_size=4, timeout_s=80)[0]

    for found in switched:
        assert found.keys() == plain.keys()
        for name, (weight, main_grad, scale) in found.items():
            assert torch.equal(weight, plain[name][0]), name
            assert torch.equal(main_grad, plain[name][1]), name
            assert scale == plain[name][2] == len(path)


def build_with_0d(world):
    """A scale without a dimension: a DTensor under TP, a plain tensor elsewhere."""
    model = nn.Module()
    model.layer, model.scale = nn.Linear(4, 4), nn.Parameter(torch.zeros(()))
    if world.enabled("tp"):
        mesh = world.mesh["tp"]
        parallelize_module(model, mesh, {"layer": ColwiseParallel()})
        scale = DTensor.from_local(model.scale.detach(), mesh, [Replicate()], run_check=False)
        model.scale = nn.Parameter(scale)
    return TrainState(model, torch.optim.AdamW(model.parameters(), lr=0.1, foreach=False))


def step_0d(rank, world_size, path):
    def fill(state, world):
        with torch.no_grad():
            for param in state.model.parameters():
                local_of(param).fill_(0.5)

    session = dynatrain.init(build_with_0d, path[0], initialize=fill, timeout_s=40)
    scales = []
    for step in session.steps(len(path)):
        model, optimizer = session.state.model, session.state.optimizer
        for param in model.parameters():
            param.grad = param.detach() * (step + 1)
        optimizer.step()
        optimizer.zero_grad()
        scales.append(local_of(model.scale).item())
        slots = optimizer.state[model.scale]
        assert isinstance(slots["exp_avg"], DTensor) == isinstance(model.scale, DTensor)
        if step + 1 < len(path):
            session.switch(path[step + 1])
    session.close()
    return scales


# Its moments came back as plain tensors beside a DTensor, and the next step raised AssertionError.
def test_moments_of_a_parameter_without_a_dimension_are_cut_as_it_is(pool):
    path = ["tp=2", "dp=1", "tp=2", "tp=2"]
    switched = pool.run(step_0d, path, world_size=2, timeout_s=60)
    plain = pool.run(step_0d, ["dp=1"] * len(path), world_size=2, timeout_s=60)[0]

    assert switched[0] == plain
