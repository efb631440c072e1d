"""A step that failed for another rank is taken back, or it is said that it cannot be."""

from __future__ import annotations

import copy
import random

import pytest
import torch

import training_jobs as jobs
from dynatrain import TrainState
from dynatrain.adapters.torch.undoing import TorchStepGuard

CPU = torch.device("cpu")


class BrokenError(RuntimeError):
    """What a step meets when another rank dies."""


@pytest.fixture
def state():
    torch.manual_seed(0)
    model = jobs.Mlp()
    for block in model.blocks:
        block.add_module("noise", torch.nn.Dropout(0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    return TrainState(model=model, optimizer=optimizer, scheduler=scheduler)


def whole(state):
    """All that the next step depends on, by torch's own means."""
    parts = (state.model, state.optimizer, state.scheduler)
    return copy.deepcopy([part.state_dict() for part in parts]), random.getstate()


def is_same(one, other):
    return repr(one) == repr(other)


def step(state, until="end"):
    """One step of training, which ends early behind the part that is named."""
    random.random()
    loss = torch.dropout(state.model(torch.randn(4, jobs.WIDTH)), 0.5, train=True).square().mean()
    done("forward", until)
    loss.backward()
    done("backward", until)
    state.optimizer.step()
    done("step", until)
    state.scheduler.step()
    done("scheduler", until)
    state.optimizer.zero_grad()


def done(part, until):
    if part == until:
        raise BrokenError(part)


def guarded(state, until="end", guard=None):
    guard = guard or TorchStepGuard(state, CPU)
    guard.begin()
    try:
        step(state, until)
    except BrokenError:
        return guard.undo()
    guard.end()
    return guard


# Its forward pass has counted in a buffer and drawn random numbers; its backward left gradients.
@pytest.mark.parametrize("until", ["forward", "backward"])
@pytest.mark.parametrize("num_before", [0, 2])
def test_step_without_an_update_is_taken_back_bit_for_bit(state, until, num_before):
    guard = TorchStepGuard(state, CPU)
    for _ in range(num_before):
        guarded(state, guard=guard)
    before, drawn = whole(state), torch.get_rng_state()

    assert guarded(state, until, guard) == 0
    assert is_same(whole(state), before)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(param.grad is None for param in state.model.parameters())


# The step is done but for its tail, such as a loss that is averaged over the ranks to be printed.
def test_step_that_failed_behind_all_that_it_does_is_done(state):
    guard = guarded(state)

    assert guarded(state, "scheduler", guard) == 1


@pytest.mark.parametrize("num_before", [0, 1])
def test_step_whose_scheduler_has_not_followed_is_torn(state, num_before):
    guard = TorchStepGuard(state, CPU)
    for _ in range(num_before):
        guarded(state, guard=guard)

    assert guarded(state, "step", guard) is None


# A part of the parameters is of the next step: nobody may take them for either.
def test_optimizer_that_was_cut_short_leaves_the_state_torn(state):
    guard = TorchStepGuard(state, CPU)
    guard.begin()
    state.optimizer.register_step_pre_hook(lambda *_: done("in the step", "in the step"))
    with pytest.raises(BrokenError):
        step(state)

    assert guard.undo() is None


# It was never seen to change, so that there is no copy of it.
def test_buffer_that_no_step_before_has_written_leaves_the_state_torn(state):
    guard = guarded(state)
    guard.begin()
    state.model.blocks[0].scale.mul_(2)

    assert guard.undo() is None


class Replacing(torch.nn.Module):
    """Keeps an average in a buffer that each forward pass makes anew, and a longer list."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("seen", torch.zeros(0))
        self.register_buffer("last", None)

    def forward(self, x, *, keeps_last=False):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        self.seen = torch.cat([self.seen, x.mean().reshape(1)])
        if keeps_last:
            self.last = x
        return (x * self.weight).sum()


def replacing(num_steps):
    """A guarded state whose steps replace its buffers, behind some steps."""
    model = Replacing()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = TorchStepGuard(TrainState(model=model, optimizer=optimizer), CPU)
    for _ in range(num_steps):
        guard.begin()
        model(torch.ones(4, 3)).backward()
        optimizer.step()
        optimizer.zero_grad()
        guard.end()
    return model, guard


# torch counts how often a tensor was written: one that takes the place of another begins at 0.
@pytest.mark.parametrize("num_before", [0, 1, 2])
def test_buffers_that_a_step_replaces_are_taken_back(num_before):
    model, guard = replacing(num_before)
    before = copy.deepcopy(model.state_dict())
    guard.begin()
    model(torch.ones(4, 3))

    assert guard.undo() == 0
    assert is_same(model.state_dict(), before)


# No step before has made it, so that nothing says whether the next one needs it.
def test_buffer_that_a_step_makes_first_leaves_the_state_torn():
    model, guard = replacing(2)
    guard.begin()
    model(torch.ones(4, 3), keeps_last=True)

    assert guard.undo() is None


def test_state_without_an_optimizer_that_can_be_seen_is_torn():
    state = TrainState(model=jobs.Mlp())
    guard = TorchStepGuard(state, CPU)
    guard.begin()

    assert guard.undo() is None


def keeping(state):
    return TorchStepGuard(state, CPU, keeps_previous=True)


# Its replica is lost, and the owners of the other parts have failed in that step.
@pytest.mark.parametrize("num_before", [0, 2])
@pytest.mark.parametrize("then", ["", "forward", "backward"])
def test_step_that_is_done_is_taken_back_bit_for_bit(state, num_before, then):
    guard = keeping(state)
    for _ in range(num_before):
        guarded(state, guard=guard)
    before, drawn = whole(state), torch.get_rng_state()
    guarded(state, guard=guard)
    if then:
        assert guarded(state, then, guard) == 0

    assert guard.can_go_back
    assert guard.go_back()
    assert is_same(whole(state), before)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not guard.can_go_back


@pytest.mark.parametrize("until", ["in the step", "step"])
def test_step_that_is_half_done_is_taken_back_where_copies_are_kept(state, until):
    guard = keeping(state)
    guarded(state, guard=guard)
    before = whole(state)
    if until == "in the step":
        state.optimizer.register_step_pre_hook(lambda *_: done(until, until))

    assert guarded(state, until, guard) == 0
    assert is_same(whole(state), before)


def test_step_that_is_done_stays_where_no_copies_are_kept(state):
    guard = guarded(state)

    assert not guard.can_go_back
