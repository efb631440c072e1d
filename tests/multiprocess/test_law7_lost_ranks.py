"""Law 7: a rank dies, and the others keep what they have, before the vote and after it."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess

import pytest
import torch

import dynatrain
import training_jobs as jobs
from dynatrain import TransportError
from held_values import Face
from sessions import TIMEOUT_S, outcome

#: Survivors wait for it. The pool gives a run many times as much, and says who waits on.
DEADLINE_S = 6


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def stand_still():
    """Stops this process, which is killed once nobody can wait for it any more."""
    end = f"sleep {4 * DEADLINE_S}; kill -KILL {os.getpid()}"
    subprocess.Popen(["/bin/sh", "-c", end], start_new_session=True)
    os.kill(os.getpid(), signal.SIGSTOP)


class DiesWhen:
    """An extra, a kept object and an executor that lose their rank at one moment of a switch."""

    def __init__(self, moment, rank, lose=die):
        self.moment, self.rank, self.armed, self.executor = moment, rank, False, None
        self.lose = lose

    def state_dict(self):
        self.maybe("reading")
        return {}

    def load_state_dict(self, state_dict):
        self.maybe("handing over")

    def on_world(self, world):
        self.maybe("committed")

    def run(self, *args, **kwargs):
        self.maybe("moving")
        return self.executor.run(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.executor, name)

    def maybe(self, moment):
        if self.armed and moment == self.moment and torch.distributed.get_rank() == self.rank:
            self.lose()


def session_that_loses_a_rank(moment, dying, lose=die, deadline_s=DEADLINE_S):
    fatal = DiesWhen(moment, dying, lose)

    def build(world):
        fatal.maybe("build")
        state = jobs.build(world)
        return dynatrain.TrainState(state.model, state.optimizer, extra={"extra": Face(fatal)})

    session = dynatrain.init(
        build, "dp=4", initialize=jobs.initialize, timeout_s=deadline_s, keep={"kept": fatal}
    )
    state = session.state
    for param in state.model.parameters():
        param.grad = torch.zeros_like(param)
    state.optimizer.step()
    state.optimizer.zero_grad()
    lanes = session._part.engine.lanes
    fatal.executor = lanes["host"].executor
    lanes["host"] = dataclasses.replace(lanes["host"], executor=fatal)
    fatal.armed = True
    return session


def lose_a_rank(rank, world_size, moment, dying, lose=die):
    return refusal(session_that_loses_a_rank(moment, dying, lose))


def lose_a_rank_with_time_to_spare(rank, world_size, moment, dying):
    return refusal(session_that_loses_a_rank(moment, dying, deadline_s=TIMEOUT_S))


def refusal(session):
    """Whether a switch that loses a rank leaves all as it was, what it says, and the layout."""
    state, before = session.state, jobs.local_bits(session.state)
    with pytest.raises(TransportError) as caught:
        session.switch("dp=2,tp=2")
    same = session.state is state and jobs.same_bits(before, jobs.local_bits(session.state))
    return same, str(caught.value), str(session.layout)


# They keep what they have, and hear of it at once. Those that had no message under way to the dead
# rank waited out the deadline, each in an exchange with one that had given up already.
@pytest.mark.parametrize("moment", ["build", "reading", "moving", "handing over"])
def test_law7_survivors_of_a_dead_rank_hear_of_it_at_once(pool, moment):
    results = pool.run(lose_a_rank_with_time_to_spare, moment, 2, may_die={2}, timeout_s=60)

    assert results[2] is None
    for same, text, layout in (results[rank] for rank in (0, 1, 3)):
        assert same
        assert layout == "dp=4"
        assert "intact" in text
        assert "not heard of since: rank 2;" in text


# Gloo's own text names a file of its sources and milliseconds: who reads it in a job of a thousand
# ranks must learn what they were doing, and which setting the deadline is.
@pytest.mark.parametrize(
    ("moment", "phase"),
    [("build", "build"), pytest.param("moving", "moving the state", marks=pytest.mark.long)],
)
def test_law7_survivors_of_a_stopped_rank_name_the_phase_and_the_deadline(pool, moment, phase):
    results = pool.run(lose_a_rank, moment, 2, stand_still, may_die={2}, timeout_s=90)

    assert results[2] is None
    for same, text, layout in (results[rank] for rank in (0, 1, 3)):
        assert same
        assert layout == "dp=4"
        assert text.startswith(f"session: the ranks could not finish {phase}: ")
        assert f"within {DEADLINE_S} s (timeout_s)" in text
        assert ".cc:" not in text
        assert "intact" in text
        assert "not heard of since: rank 2;" in text


def two_faults_at_once(rank, world_size):
    def lose():
        if rank == 2:
            die()
        raise ValueError("what the script of rank 1 has met")

    session = session_that_loses_a_rank("reading", rank if rank in (1, 2) else -1, lose)
    before = jobs.local_bits(session.state)
    kind, text = outcome(lambda: session.switch("dp=2,tp=2"))
    return kind, text, jobs.same_bits(before, jobs.local_bits(session.state))


# Nobody heard of it, the rank itself not either: all looked for the rank that had died.
def test_law7_what_one_rank_met_is_told_where_another_one_dies_at_once(pool):
    results = pool.run(two_faults_at_once, may_die={2}, timeout_s=60)

    kinds = [result and result[0] for result in results]
    assert kinds == ["TransportError", "LayoutError", None, "TransportError"]
    assert "state_dict() of extra.extra raised ValueError: what the script" in results[1][1]
    for _, text, same in (results[rank] for rank in (0, 1, 3)):
        assert "what the script of rank 1 has met" in text
        assert same
    assert "rank 1 has left the call: " in results[0][1]
    assert "not heard of since: rank 2;" in results[0][1]


def lose_a_rank_after_the_vote(rank, world_size, dying):
    session = session_that_loses_a_rank("committed", dying)
    head = jobs.whole_state(session.state)["head.weight.param"]
    report = session.switch("dp=2,tp=2")
    expected = head.chunk(2)[session.world.coordinate("dp_shard")]
    held = session.state.model.head.weight.to_local()
    return str(session.layout), report.epoch, torch.equal(expected, held)


# The vote decided: an error would make a script believe that it still has the source.
def test_law7_a_rank_lost_after_the_vote_does_not_undo_the_switch(pool):
    results = pool.run(lose_a_rank_after_the_vote, 2, may_die={2}, timeout_s=60)

    assert results == [("dp=2,tp=2", 1, True)] * 2 + [None] + [("dp=2,tp=2", 1, True)]
