"""Threads beside training: they begin soon or not at all, and nobody waits for one that cannot."""

from __future__ import annotations

import threading

import pytest

from dynatrain import _threads
from dynatrain._threads import Beside, started
from dynatrain.generation.late import beside

WAIT_S = 10.0


@pytest.fixture
def stillborn(monkeypatch):
    """Threads that end before they begin, as Python's do without memory."""
    monkeypatch.setattr(_threads, "_STARTS", 1)
    monkeypatch.setattr(Beside, "_bootstrap", lambda self: None)


# Python waited for it without end: a member stood still that had memory again.
@pytest.mark.usefixtures("stillborn")
def test_a_thread_that_ends_before_it_begins_is_none():
    did = []
    assert started("a thread", did.append, 1) is None
    with pytest.raises(RuntimeError, match="has not begun"):
        Beside("a thread", did.append, 2).start()
    beside("a thread", lambda: did.append(3), 1.0)
    assert did == [3]


# It comes late, when somebody else has done its work.
@pytest.mark.usefixtures("stillborn")
def test_the_work_of_a_thread_that_was_given_up_is_not_done_twice():
    did = []
    thread = Beside("a thread", did.append, 1)
    with pytest.raises(RuntimeError):
        thread.start()
    thread.run()
    assert did == []


def test_what_is_done_beside_is_not_waited_for():
    goes_on, done = threading.Event(), threading.Event()

    def work():
        assert goes_on.wait(WAIT_S)
        done.set()

    beside("a thread", work, 1.0)
    assert not done.is_set()
    goes_on.set()
    assert done.wait(WAIT_S)
