"""Which steps count where a loop is left in the middle of one."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

import training_jobs as jobs
from dynatrain import TrainState
from dynatrain.adapters.torch import outside, stepping


class ScriptError(Exception):
    """What the body of a loop raises."""


@pytest.fixture
def session(start):
    return start()


def leave(loop, leaves, *, by_break=False):
    """Runs ``leaves()`` in the first step of a loop, and leaves it there."""
    with contextlib.suppress(ScriptError):
        for _ in loop:
            leaves()
            if by_break:
                break
            raise ScriptError


def nothing():
    pass


def trained(session):
    return lambda: jobs.train_step(session.state, session.world, 0)


# A script that catches what a step raised and loops again went on with the next one: the step that
# raised, and its batch, were never trained.
@pytest.mark.parametrize("by_break", [True, False])
def test_a_step_that_did_not_train_is_repeated(session, by_break):
    leave(session.steps(3), nothing, by_break=by_break)

    assert session.step == 0
    assert list(session.steps(3)) == [0, 1, 2]


# Behind the optimizer's step a repetition would train twice.
@pytest.mark.parametrize("by_break", [True, False])
def test_a_step_whose_optimizer_has_stepped_counts(session, by_break):
    leave(session.steps(3), trained(session), by_break=by_break)

    assert session.step == 1
    assert list(session.steps(3)) == [1, 2]


def test_what_an_earlier_step_trained_does_not_count_for_a_later_one(session):
    for step in session.steps(5):
        if step == 1:
            break
        jobs.train_step(session.state, session.world, step)

    assert session.step == 1


# Whoever holds the generator, as a variable of a frame in a traceback does, has it end much later:
# it counted the step under way of a newer loop, which was then left out.
def test_a_loop_that_ends_late_changes_nothing(session):
    held = session.steps(4)
    leave(held, nothing)
    seen = []
    for step in session.steps(4):
        seen.append(step)
        if step == 1:
            del held
            assert session.step == 1

    assert seen == [0, 1, 2, 3]


# The ranks that took part in the switch, and those that joined, were told that it counts.
# A loop inside of another one is the last that was entered; the outer one goes on, and is held.
def test_a_step_of_an_outer_loop_that_goes_on_behind_an_inner_one_counts(session):
    outer = session.steps(9)
    next(outer)
    jobs.train_step(session.state, session.world, 0)
    for step in session.steps(2):
        jobs.train_step(session.state, session.world, step)
    assert next(outer) == session.step == 2
    jobs.train_step(session.state, session.world, 2)

    assert list(session.steps(4)) == [3]


def test_a_step_that_was_switched_counts_once(session):
    held = session.steps(4)
    leave(held, lambda: session.switch("dp=1"), by_break=True)
    assert session.step == 1
    del held

    assert session.step == 1
    assert list(session.steps(4)) == [1, 2, 3]


def test_a_switch_behind_a_loop_that_is_held_counts_its_step_once(session):
    held = session.steps(4)
    leave(held, nothing)
    report = session.switch("dp=1")
    del held

    assert report.step == session.step == 1


def test_the_optimizer_of_a_state_that_a_switch_made_is_watched(session):
    leave(session.steps(9), lambda: session.switch("dp=1"))
    leave(session.steps(9), nothing)
    assert session.step == 1
    leave(session.steps(9), trained(session))

    assert session.step == 2


# Without an optimizer nothing tells a break behind the work from one before it.
def test_a_step_of_a_state_without_an_optimizer_counts(start_alone):
    session = start_alone(lambda world: TrainState(nn.Linear(3, 2)), "dp=1")
    leave(session.steps(3), nothing, by_break=True)

    assert session.step == 1


class Container(torch.optim.Optimizer):
    """One optimizer for each parameter; its own constructor makes no hooks."""

    def __init__(self, params):
        self.optimizers = [torch.optim.SGD([param], lr=0.1) for param in params]

    @property
    def state(self):
        return {}

    @property
    def param_groups(self):
        return [group for each in self.optimizers for group in each.param_groups]

    def step(self):
        for each in self.optimizers:
            each.step()


class Unseen(torch.optim.Optimizer):
    """Of a package that leaves the constructor of torch out."""

    def __init__(self, params):
        self.state, self.param_groups = {}, [{"params": list(params)}]

    def step(self):
        pass


def in_backward(params):
    """One optimizer for each parameter, which steps as soon as its gradient is there."""
    optimizers = [torch.optim.SGD([param], lr=0.1) for param in params]
    for param, each in zip(params, optimizers, strict=True):
        param.register_post_accumulate_grad_hook(lambda _, each=each: each.step())
    return optimizers


def watched(make):
    """What is seen of a small state, its model and its optimizer."""
    model = nn.Linear(3, 2)
    state = TrainState(model, make(list(model.parameters())))
    return stepping.watch(state), model, state


@pytest.mark.parametrize(
    "make", [in_backward, Container, torch.optim.LBFGS, torch.optim.SparseAdam]
)
def test_steps_are_seen_wherever_the_optimizer_is(make):
    seen, model, state = watched(make)
    assert seen.sure
    assert not seen.stepped
    model(torch.ones(1, 3)).sum().backward()
    if make is torch.optim.LBFGS:
        state.optimizer.step(lambda: model(torch.ones(1, 3)).sum())
    elif make is Container:
        state.optimizer.step()
    elif make is torch.optim.SparseAdam:
        for param in model.parameters():
            param.grad = param.grad.to_sparse()
        state.optimizer.step()

    assert seen.stepped


# A scheduler and a scaler put functions of their own around the step, or leave it out.
def test_a_step_that_the_scaler_leaves_out_is_none():
    seen, model, state = watched(lambda params: torch.optim.SGD(params, lr=0.1))
    torch.optim.lr_scheduler.StepLR(state.optimizer, 1)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.full((1, 3), float("inf"))).sum()).backward()
    scaler.step(state.optimizer)
    assert not seen.stepped
    scaler.update()
    state.optimizer.zero_grad()
    scaler.scale(model(torch.ones(1, 3)).sum()).backward()
    scaler.step(state.optimizer)

    assert seen.stepped


def test_an_optimizer_that_torch_does_not_hook_is_no_sure_sign():
    assert not watched(Unseen)[0].sure


# A graph that is replayed steps and calls nobody: its steps would all seem to be left out.
def test_a_step_that_is_captured_is_no_sure_sign(monkeypatch):
    seen, _, state = watched(lambda params: torch.optim.SGD(params, lr=0.1))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    state.optimizer.step()

    assert not seen.sure


# A switch refuses hooks that build does not make; those of the library are no such.
def test_watching_sets_nothing_that_a_switch_would_miss():
    model = nn.Linear(3, 2)
    state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))
    before = outside.read(state)
    stepping.watch(state)

    assert outside.read(state) == before
