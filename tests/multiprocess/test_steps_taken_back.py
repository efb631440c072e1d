"""A step of fully_shard that another rank has cut short, taken back where it stood."""

from __future__ import annotations

import pytest
import torch

import training_jobs as jobs
from dynatrain.adapters.torch.boundary import why_not_now
from dynatrain.adapters.torch.undoing import TorchStepGuard
from sessions import start


def cut_short(rank, world_size, until):
    session = start("dp=2,tp=2")
    state = session.state
    jobs.train_step(state, session.world, 0)
    before = jobs.local_bits(state)
    guard = TorchStepGuard(state, torch.device("cpu"))
    guard.begin()
    loss = state.model(torch.randn(4, jobs.WIDTH)).square().mean()
    if until == "backward":
        loss.backward()
    gained = guard.undo()
    same = not jobs.differences(before, jobs.local_bits(state))
    return gained, same, why_not_now(state), session.switch("dp=4").epoch


# The root of fully_shard stays gathered behind its forward, whatever reshard() is asked: what was
# left of the world could not be read, and the job ended for the loss of one replica.
@pytest.mark.parametrize("until", ["forward", "backward"])
def test_state_of_a_step_that_was_cut_short_can_be_switched(pool, until):
    for gained, same, why_not, epoch in pool.run(cut_short, until):
        assert gained == 0
        assert same
        assert why_not is None
        assert epoch == 1
