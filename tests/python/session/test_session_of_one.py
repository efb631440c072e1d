"""A session in one process: no launcher, no environment, the whole path of a switch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import dynatrain
import training_jobs as jobs
from dynatrain import BudgetError, DeviceError, LayoutError, StaleStateError


@pytest.fixture
def session(start):
    return start(verify=("fingerprint",))


# The first try of a newcomer is on one process.
def test_switch_to_the_same_layout_keeps_every_bit_and_moves_nothing(session):
    jobs.train_step(session.state, session.world, 0)
    before, fingerprint = jobs.whole_state(session.state), dynatrain.fingerprint()

    report = dynatrain.switch_parallelism("dp=1")

    assert jobs.differences(before, jobs.whole_state(session.state)) == []
    assert report.bytes_moved == 0
    assert report.fingerprint_before == report.fingerprint_after == fingerprint
    assert session.world.epoch == report.epoch == 1


# A fingerprint that one flipped bit does not change would prove nothing.
def test_fingerprint_sees_a_single_flipped_bit(session):
    before = session.fingerprint()
    with torch.no_grad():
        session.state.model.head.bias.view(torch.int32)[3] ^= 1

    assert session.fingerprint() != before


def test_state_replaced_by_a_switch_cannot_be_used(session):
    jobs.train_step(session.state, session.world, 0)
    state, model, optimizer = session.state, session.state.model, session.state.optimizer
    session.switch("dp=1")

    for use in (
        lambda: state.model,
        lambda: state.optimizers,
        lambda: model(torch.zeros(1, jobs.WIDTH)),
        optimizer.step,
        # What only seems to work: gradients stay, and nothing is clipped or frozen.
        optimizer.zero_grad,
        model.zero_grad,
        lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0),
        lambda: list(model.named_parameters()),
        model.eval,
        lambda: model.requires_grad_(False),
        lambda: model.load_state_dict({}),
    ):
        with pytest.raises(StaleStateError, match=r"session\.state again"):
            use()
    jobs.train_step(session.state, session.world, 1)


# Old meshes and groups stay usable to torch, so a script that kept them would train on them.
def test_world_replaced_by_a_switch_cannot_be_used(session):
    world = session.world
    session.switch("dp=1")

    for use in (lambda: world.mesh, lambda: world.rank, lambda: world.size("tp")):
        with pytest.raises(StaleStateError, match=r"session\.world again"):
            use()
    assert repr(world) == "World(that the switch to dp=1 replaced)"
    assert session.world.size("tp") == 1


def test_layout_larger_than_the_job_is_refused(session):
    with pytest.raises(LayoutError, match="needs 2 ranks"):
        session.switch("dp=2")


def test_steps_count_across_loops(session):
    assert list(session.steps(3)) == [0, 1, 2]
    assert list(session.steps(3)) == []
    assert list(session.steps(5)) == [3, 4]
    assert session.step == 5


def test_switch_inside_a_step_counts_that_step_as_completed(session):
    for step in session.steps(2):
        jobs.train_step(session.state, session.world, step)
        if step == 0:
            assert session.switch("dp=1").step == 1
    assert session.step == 2


def test_unknown_verification_is_refused_with_the_ones_there_are():
    with pytest.raises(LayoutError, match="replicas"):
        dynatrain.init(jobs.build, "dp=1", verify=("checksums",))


class Preparing:
    """An executor whose preparations are the test's."""

    def __init__(self, executor, prepare):
        self.executor, self.prepare = executor, prepare

    def __getattr__(self, name):
        return getattr(self.executor, name)


def prepare_by(session, monkeypatch, prepare):
    """Lets ``prepare(executor, *args)`` make the session's runs."""
    lane = session._part.engine.lanes["host"]
    executor = Preparing(lane.executor, partial(prepare, lane.executor))
    monkeypatch.setitem(session._part.engine.lanes, "host", replace(lane, executor=executor))


def short_of_memory(session, monkeypatch, text):
    """Lets the first preparation fail with ``text``; returns what was asked of torch's cache."""
    asked, emptied = [], []

    def prepare(executor, *args):
        asked.append(1)
        if len(asked) == 1:
            raise DeviceError(text)
        return executor.prepare(*args)

    prepare_by(session, monkeypatch, prepare)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(len(asked)))
    return emptied


# torch's cache may hold all that is free of a GPU; its own allocations would take it back as well.
def test_staging_takes_back_what_torch_only_caches(session, monkeypatch):
    emptied = short_of_memory(session, monkeypatch, "out of memory (cudaErrorMemoryAllocation)")

    assert session.switch("dp=1").epoch == 1
    assert emptied == [1]


def test_other_failures_of_a_device_are_not_tried_again(session, monkeypatch):
    emptied = short_of_memory(session, monkeypatch, "the device is lost (cudaErrorUnknown)")

    with pytest.raises(dynatrain.Error, match="the device is lost"):
        session.switch("dp=1")
    assert emptied == []


# What describes a hundred thousand boxes to a GPU lies there too, and is known once they are made.
def test_tables_of_copies_count_against_the_budget(session, monkeypatch):
    before = jobs.whole_state(session.state)
    session._part.generation.options = replace(
        session._part.generation.options, memory_budget_bytes=1 << 30
    )
    prepare_by(session, monkeypatch, lambda executor, *args: SimpleNamespace(table_bytes=2 << 30))

    with pytest.raises(BudgetError, match="lower staging_budget_bytes; mode='auto'") as refused:
        session.switch("dp=1")

    assert refused.value.required_bytes == 2 << 30
    assert jobs.differences(before, jobs.whole_state(session.state)) == []


# `zero_grad` at the head of a step is common: what the refusal says must get such a script on.
def test_gradients_that_a_step_has_used_are_refused_and_the_advice_works(session):
    model, optimizer = session.state.model, session.state.optimizer
    optimizer.zero_grad()
    model(torch.ones(2, jobs.WIDTH)).sum().backward()
    optimizer.step()

    with pytest.raises(LayoutError, match=r"model\.zero_grad\(set_to_none=True\) before"):
        session.switch("dp=1")
    model.zero_grad(set_to_none=True)
    assert session.switch("dp=1").epoch == 1


# torch holds meshes that DTensors had, and such a mesh held the threads and sockets of its groups.
def test_meshes_over_chosen_axes_let_go_of_their_groups_with_their_world(session):
    mesh = session.world.mesh_over("dp_replicate", "fsdp", "tp")
    assert mesh.get_group("tp").size() == 1

    session.close()

    assert mesh._pg_registry == {}


CALLS_THAT_DO_SOMETHING = {
    "steps": lambda session: session.steps(5),
    "on_switch": lambda session: session.on_switch(print),
    "request": lambda session: session.request("dp=1"),
    "switch": lambda session: session.switch("dp=1"),
    "prepare": lambda session: session.prepare("dp=1"),
    "check": lambda session: session.check("dp=1"),
    "fingerprint": lambda session: session.fingerprint(),
    "verify_replicas": lambda session: session.verify_replicas(),
}


# The loop went on over groups that had ended, and a callback waited for switches that never came.
@pytest.mark.parametrize("call", CALLS_THAT_DO_SOMETHING)
def test_a_closed_session_refuses_what_would_do_something(start, call):
    session = start()
    session.close()
    with pytest.raises(LayoutError, match="it was closed") as caught:
        CALLS_THAT_DO_SOMETHING[call](session)

    assert "whose state build makes anew: initialize=" in str(caught.value)


def test_a_loop_whose_body_closes_the_session_ends_with_an_error_unless_it_was_the_last(start):
    session = start()
    steps = session.steps(3)
    next(steps)
    session.close()
    with pytest.raises(LayoutError, match="close it behind the last step"):
        next(steps)
    last = start()
    for step in last.steps(2):
        if step == 1:
            last.close()

    assert (session.step, last.step) == (1, 2)
