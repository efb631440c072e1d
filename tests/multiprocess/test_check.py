"""A trial of a layout says what a switch to it would, and what build cannot do shows in init."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import training_jobs as jobs
from dynatrain import LayoutError, TrainState
from sessions import outcome, start


def try_layouts(rank, world_size):
    session = start("dp=3", memory_budget_bytes=1 << 20)
    for step in session.steps(1):
        jobs.train_step(session.state, session.world, step)
        before = jobs.whole_state(session.state)
        needed = session.check("dp=2,tp=2")
        short = replace(session._part.generation.options, memory_budget_bytes=needed - 1)
        session._part.generation.options = short
        kinds = [outcome(lambda to=to: session.check(to))[0] for to in ("dp=2,tp=2", "dp=8")]
        return needed > 0, kinds, jobs.differences(before, jobs.whole_state(session.state))


# Ranks that idle take part: a layout that would need them is the one to be tried.
def test_a_check_says_what_a_switch_would_while_a_rank_idles(pool):
    *active, idle = pool.run(try_layouts)

    assert active == [(True, ["BudgetError", "LayoutError"], [])] * 3
    assert idle is None


def check_away_and_here(rank, world_size):
    session = start()
    return session.check("dp=2,tp=2"), session.check("dp=4")


# A stay adopts all that there is and stages nothing; who plans memory by check would think it
# costs a second state.
def test_a_check_of_the_present_layout_needs_no_memory(pool):
    answers = pool.run(check_away_and_here)

    assert len(set(answers)) == 1
    away, here = answers[0]
    assert away > here == 0


def late_refusal(rank, world_size):
    with pytest.raises(LayoutError, match="masks"):
        start("dp=2", build_with_loose_tensor, initialize=None)
    return True


def build_with_loose_tensor(world):
    model = jobs.Mlp()
    model.masks = [torch.ones(3)]
    return TrainState(model)


# What build cannot do at a switch would show after days.
def test_build_that_cannot_be_switched_is_refused_by_init(pool):
    assert pool.run(late_refusal, world_size=2) == [True, True]
