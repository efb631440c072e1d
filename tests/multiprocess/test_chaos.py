"""A job that is disturbed at random moments trains as one that nobody disturbs."""

from __future__ import annotations

import pytest
import torch.distributed as dist

import dynatrain
import training_jobs as jobs
from elastic_chaos import TOTAL, Chaos, build, train_step


@pytest.fixture
def chaos(tmp_path, request):
    made = Chaos(tmp_path, request.param)
    yield made
    made.end()


def undisturbed():
    session = dynatrain.init(build, "dp=1", initialize=jobs.initialize)
    losses = [train_step(session.state, session.world, step) for step in range(TOTAL)]
    session.close()
    dist.destroy_process_group()
    return losses


def disturb(chaos, times):
    """Disturbs the job and lets it end: each step is done, and has the loss that it should."""
    chaos.await_progress()
    while sum(not kind.startswith(("drain", "resize")) for kind in chaos.happened) < times:
        chaos.disturb()
        if chaos.random.random() < 0.3:
            chaos.await_progress()
    chaos.await_progress()
    finished = chaos.finish()
    losses, expected = chaos.losses(), undisturbed()
    untold = sum(loss is None for loss in losses)

    assert finished, chaos.happened
    assert untold <= len(chaos.happened)  # a step that was cut short after some had done it
    for step, (loss, of_step) in enumerate(zip(losses, expected, strict=True)):
        assert loss is None or loss == pytest.approx(of_step, rel=1e-3), (step, chaos.happened)


# Oobleck's list for chaos: many changes in one run, no step skipped or repeated.
@pytest.mark.parametrize("chaos", [1], indirect=True)
def test_a_job_trains_through_kills_and_stops_at_random_moments(chaos):
    disturb(chaos, 60)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("chaos", range(2, 12), indirect=True)
def test_jobs_train_through_a_thousand_kills_and_stops(chaos):
    disturb(chaos, 100)
