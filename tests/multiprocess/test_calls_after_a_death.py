"""Survivors of a rank that died call again, each when its script does."""

from __future__ import annotations

import os
import signal

import pytest

import training_jobs as jobs
from dynatrain import TransportError
from sessions import start

#: Survivors wait so long for a rank that is dead, and for one that is late.
DEADLINE_S = 4


def dies_in(moment, session, rank):
    """Has this rank be killed in a phase of its next switch."""
    if rank == 2:
        setattr(session._part.adapter, moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))


def refusal(session):
    with pytest.raises(TransportError) as caught:
        session.switch("dp=2,tp=2")
    return str(caught.value), caught.value.peer


def calls_at_different_times(rank, world_size, moment):
    session = start("dp=4", timeout_s=DEADLINE_S)
    before = jobs.local_bits(session.state)
    dies_in(moment, session, rank)
    store = session._part.generation.members.store_of("test")
    first = refusal(session)
    if rank == 3:
        store.wait(["given up"])
    second = refusal(session)
    if rank == 0:
        store.set("given up", "")
    third = refusal(session)
    return jobs.same_bits(before, jobs.local_bits(session.state)), first, second, third


# Second calls missed each other and accused the living: those that had called at once named all
# that were late, and a late rank was told that it itself did not arrive.
@pytest.mark.parametrize("moment", ["make_slots", "take_values"])
def test_second_calls_name_the_dead_rank_alone_and_third_ones_meet(pool, moment):
    results = pool.run(calls_at_different_times, moment, may_die={2}, timeout_s=90)

    assert results.pop(2) is None
    assert all(intact for intact, *_ in results)
    for _, _, (text, peer), _ in results[:2]:
        assert "ranks [2, 3] did not arrive" in text
        assert "rank 2 has not been heard of since the last call failed" in text
        assert "rank 3 has been, but did not call again in time" in text
        assert peer == 2
    late, peer = results[2][2]
    assert "this rank came after the others had given the call up; ranks [2] did not" in late
    assert "rank 3" not in late
    assert peer == 2
    assert len({third for *_, third in results}) == 1
    assert "ranks [2] did not arrive" in results[0][3][0]


def late_for_a_call(rank, world_size):
    session = start("dp=4", timeout_s=DEADLINE_S)
    store = session._part.generation.members.store_of("test")
    if rank == 3:
        store.wait(["given up"])
    for _ in session.steps(1):
        text = refusal(session)[0]
        if rank == 0:
            store.set("given up", "")
        return text, session.switch("dp=2,tp=2").epoch


# All are alive: a script that tries again has what it asked for.
def test_call_after_one_that_a_late_rank_missed_goes_through(pool):
    results = pool.run(late_for_a_call, timeout_s=90)

    assert "it alone was missing" in results[3][0]
    assert all("ranks [3] did not arrive" in text for text, _ in results[:3])
    assert [epoch for _, epoch in results] == [1] * 4
