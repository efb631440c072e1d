"""A session in one process: no launcher, no environment, the whole path of a switch."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

import dynatrain
import training_jobs as jobs
from dynatrain import LayoutError, StaleStateError


@pytest.fixture
def session(monkeypatch):
    """A world of one, as a plain `python train.py` would make it."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    made = dynatrain.init(
        jobs.build, "dp=1", initialize=jobs.initialize, timeout_s=20, verify=("fingerprint",)
    )
    yield made
    made.close()
    dist.destroy_process_group()


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
    assert repr(world) == "World(replaced by dp=1)"
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
