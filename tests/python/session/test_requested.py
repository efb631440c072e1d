"""A requested switch that failed is heard of once: in the log, or as what the loop raises."""

from __future__ import annotations

import logging

import pytest
import torch

import training_jobs as jobs
from dynatrain import InternalError, Layout, LayoutError, TransportError
from dynatrain.requested import Requested

REFUSED = LayoutError("session: a reason\n  what to do")
LOST = TransportError("session: the store is gone", retryable=False)


def warnings_of(caplog):
    return [
        record.getMessage()
        for record in caplog.records
        if (record.name, record.levelno) == ("dynatrain.session", logging.WARNING)
    ]


def run_to(error, request):
    def switch(problem):
        raise problem or error

    request.run(switch)


# Training went on in the former layout, and a script that never asks its future heard nothing.
def test_requested_switch_that_is_refused_is_logged_once(start, caplog):
    session = start()
    future = None
    for step in session.steps(3):
        jobs.train_step(session.state, session.world, step)
        if step == 0:
            future = session.request("dp=1")
            for param in session.state.model.parameters():
                param.grad = torch.zeros_like(param)

    assert future is not None
    assert len(warnings_of(caplog)) == 1
    assert f"the requested switch to dp=1 failed: {future.exception(0)}" in warnings_of(caplog)[0]


def test_requested_switch_that_succeeds_logs_no_warning(start, caplog):
    session = start()
    for step in session.steps(2):
        jobs.train_step(session.state, session.world, step)
        if step == 0:
            session.request("dp=1")

    assert warnings_of(caplog) == []


# Nothing is both raised and logged.
@pytest.mark.parametrize("error", [LOST, InternalError("a bug"), KeyboardInterrupt()], ids=repr)
def test_what_the_loop_raises_is_not_logged_too(caplog, error):
    request = Requested(Layout.parse("tp=4"))
    with pytest.raises(type(error)):
        run_to(error, request)

    assert request.future.exception(0) is error
    assert warnings_of(caplog) == []


# Who cancelled knows of it.
def test_a_request_that_was_cancelled_here_is_not_logged(caplog):
    request = Requested(Layout.parse("tp=4"))
    request.future.cancel()
    run_to(REFUSED, request)

    assert warnings_of(caplog) == []


def test_a_request_that_was_cancelled_here_and_failed_by_something_else_is_logged(caplog):
    request = Requested(Layout.parse("tp=4"))
    request.future.cancel()

    def switch(_problem):
        raise REFUSED

    request.run(switch)

    assert warnings_of(caplog) == [f"the requested switch to tp=4 failed: {REFUSED}"]


# The switch is made by the thread that would wait: it waited for ever.
@pytest.mark.parametrize("ask", ["result", "exception"])
def test_the_thread_that_trains_is_refused_to_wait_for_its_own_switch(start, ask):
    session = start()
    future = session.request("dp=1")

    with pytest.raises(LayoutError, match="in the thread that trains"):
        getattr(future, ask)()
    with pytest.raises(TimeoutError):
        getattr(future, ask)(0)
    for step in session.steps(1):
        jobs.train_step(session.state, session.world, step)
    assert future.result().target == "dp=1"


# Whoever waits for it in another thread would never hear.
def test_a_closed_session_ends_its_request_and_takes_no_other(start):
    session = start()
    future = session.request("dp=1")

    session.close()

    with pytest.raises(LayoutError, match="closed before the requested switch to dp=1"):
        future.result(0)
    with pytest.raises(LayoutError, match="it was closed"):
        session.request("dp=1")


def test_a_request_that_was_cancelled_stays_so_when_the_session_is_closed(start):
    session = start()
    future = session.request("dp=1")
    assert future.cancel()

    session.close()

    assert future.cancelled()


# Whoever waits for the future would wait for ever.
def test_a_request_ends_with_a_session_whose_closing_fails(start, monkeypatch):
    session = start()
    future = session.request("dp=1")

    def fails():
        raise RuntimeError("no group ends")

    with monkeypatch.context() as patch:
        patch.setattr(session._part.worlds, "end", fails)
        with pytest.raises(RuntimeError, match="no group ends"):
            session.close()

    assert "it was closed before" in str(future.exception(0))


# The session goes on, and its request with it.
def test_a_request_stands_where_closing_is_refused(start, monkeypatch):
    session = start()
    future = session.request("dp=1")

    def refused(**_):
        raise LayoutError("another call is under way")

    with monkeypatch.context() as patch:
        patch.setattr(session._part, "end", refused)
        with pytest.raises(LayoutError, match="under way"):
            session.close()

    assert not future.done()
