"""Requests that are cancelled before the step boundary, on some ranks or on all."""

from __future__ import annotations

from concurrent.futures import CancelledError
from functools import partial

import pytest

import training_jobs as jobs
from dynatrain import LayoutError
from sessions import refused, start


def cancel_on(rank, world_size, cancelling, layout):
    """Requests a switch, cancels it on some ranks, and trains on; rank 3 may idle meanwhile."""
    session = start(layout)
    future, layouts = None, []
    for step in session.steps(3):
        jobs.train_step(session.state, session.world, step)
        layouts.append(str(session.layout))
        if step == 0:
            future = session.request("dp=2,tp=2")
            if rank in cancelling:
                assert future.cancel()
    if future is None:
        return None, layouts, session.switch(layout).epoch
    try:
        error = future.exception(0)
    except CancelledError as cancelled:
        error = cancelled
    told = (type(error), str(error))
    return told, layouts, session.switch(layout).epoch


# The others waited for the deadline, and the rank itself got an InvalidStateError out of its loop.
def test_request_cancelled_on_some_ranks_is_refused_on_the_others(pool):
    for rank, (told, layouts, epoch) in enumerate(pool.run(cancel_on, (1, 3), "dp=4")):
        assert (layouts, epoch) == (["dp=4"] * 3, 1)
        if rank in (1, 3):
            assert told[0] is CancelledError
        else:
            assert told[0] is LayoutError
            assert "ranks 1, 3: " in told[1]
            assert "cancelled on this rank" in told[1]


def test_request_cancelled_on_all_ranks_switches_nothing(pool):
    for told, layouts, epoch in pool.run(cancel_on, (0, 1, 2, 3), "dp=4"):
        assert told[0] is CancelledError
        assert (layouts, epoch) == (["dp=4"] * 3, 1)


# A rank that idles has no request of its own: it hears of it, and of the refusal.
def test_cancelled_request_leaves_ranks_that_idle_as_they_are(pool):
    results = pool.run(cancel_on, (0, 1), "dp=3")

    assert [told and told[0] for told, *_ in results] == [CancelledError] * 2 + [LayoutError, None]
    assert [epoch for *_, epoch in results] == [1] * 4


def ask_again(rank, world_size):
    session = start()
    futures = []
    for step in session.steps(2):
        jobs.train_step(session.state, session.world, step)
        if step == 0:
            futures.append(session.request("tp=4"))
            with pytest.raises(LayoutError, match="already requested"):
                session.request("dp=2,tp=2")
            futures[0].cancel()
            futures.append(session.request("dp=2,tp=2"))
    return futures[0].cancelled(), futures[1].result(0).target, str(session.layout)


def test_another_layout_can_be_requested_in_place_of_a_cancelled_one(pool):
    assert pool.run(ask_again) == [(True, "dp=2,tp=2", "dp=2,tp=2")] * 4


def ask_for_too_many(rank, world_size):
    session = start()
    texts = []
    for step in session.steps(2):
        jobs.train_step(session.state, session.world, step)
        if step == 0:
            texts = [refused(partial(ask, "dp=9")) for ask in (session.request, session.switch)]
            session.request("tp=4")
    return texts, str(session.layout)


# It was taken as pending, and refused where nobody may look; every rank knows its size at once.
def test_request_of_more_ranks_than_there_are_is_refused_at_once(pool):
    for (of_request, of_switch), layout in pool.run(ask_for_too_many):
        assert of_request == of_switch
        assert "needs 9 ranks" in of_request
        assert layout == "tp=4"
