"""Errors name the rank that they are about."""

from __future__ import annotations

import pytest

import dynatrain
import training_jobs as jobs
from dynatrain import DeviceError, TransportError
from sessions import start


def leave_in_build(rank, world_size):
    armed = []

    def build(world):
        if armed and rank == 2:
            raise KeyboardInterrupt
        return jobs.build(world)

    session = start("dp=4", build)
    armed.append(True)
    try:
        session.switch("dp=2,tp=2")
    except TransportError as error:
        told = str(error), error.peer
    except KeyboardInterrupt:
        told = "interrupted", -1
    armed.clear()
    return told, session.switch("dp=2,tp=2").epoch


# Survivors were given addresses, a different one each, of which none can be found in a job.
def test_the_others_hear_which_rank_has_left_the_call_and_why(pool):
    results = pool.run(leave_in_build)

    assert [epoch for _, epoch in results] == [1] * 4
    assert results[2][0][0] == "interrupted"
    for rank in (0, 1, 3):
        text, peer = results[rank][0]
        assert "could not finish build" in text
        assert "rank 2 has left the call: KeyboardInterrupt" in text
        assert peer == 2


def fail_in_the_transfer(rank, world_size):
    session = start("dp=4")
    lanes = session._part.engine.lanes
    run = lanes["host"].executor

    class Failing:
        def __getattr__(self, name):
            return getattr(run, name)

        def run(self, *args, **options):
            raise DeviceError("the system gives no thread")

    if rank == 2:
        lanes["host"] = dynatrain.generation.lanes.Lane(
            "c10d", lanes["host"].transport, Failing(), lanes["host"].max_direct
        )
    with pytest.raises(dynatrain.Error) as caught:
        session.switch("dp=2,tp=2")
    return type(caught.value).__name__, str(caught.value)


# What the others met followed from it, and was told first where their ranks were lower.
def test_the_cause_of_a_failed_transfer_is_told_before_what_follows_from_it(pool):
    for kind, text in pool.run(fail_in_the_transfer):
        assert kind == "DeviceError"
        assert "the system gives no thread" in text


def leave_an_exchange(rank, world_size):
    session = start("dp=4")
    control = session._part.engine.control
    agree = control.agree

    def leaving(phase, *given):
        if rank == 1 and phase == "reading the state":
            raise KeyboardInterrupt
        return agree(phase, *given)

    session.prepare("dp=2,tp=2")
    control.agree = leaving
    with pytest.raises((TransportError, KeyboardInterrupt)):
        session.switch("dp=2,tp=2")
    return session.switch("dp=2,tp=2").epoch


# Some ranks had its answer, and waited in a lane for those that had let go of the exchange alone.
def test_who_waits_in_a_lane_hears_of_an_exchange_that_failed(pool):
    assert pool.run(leave_an_exchange) == [1] * 4
