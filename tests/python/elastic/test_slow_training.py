"""The thread of snapshots beside training that is slow: what it waits for, and how long."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dynatrain.elastic.boundaries import SLOW, Boundaries
from dynatrain.elastic.partners import Brought
from ranks_in_threads import STUCK_S

MINE = Brought(None, 0, 64, "mine")


def boundaries_of(seconds):
    """Those of a member whose messages have so long, measured and at no boundary yet."""
    made = Boundaries(seconds)
    made.measured(64)
    return made


def come_when_wanted(made, version):
    """Comes to a boundary once a copy is wanted there."""
    until = time.monotonic() + STUCK_S
    while made._due != version and time.monotonic() < until:
        threading.Event().wait(0.002)
    assert made.wanted_at(version) == "copy"


@pytest.fixture
def thread():
    with ThreadPoolExecutor(1) as made:
        yield made


# One that computes for long between two steps, as an evaluation does, held the thread until the
# world ended. Nothing may be copied for the round that is over, and the next one goes on.
def test_a_slow_step_costs_the_round_and_nothing_else(thread):
    made = boundaries_of(0.3)

    assert made.brought_at(5).why == SLOW
    assert made.wanted_at(5) == ""
    brought = thread.submit(made.brought_at, 9)
    come_when_wanted(made, 9)
    made.bring(MINE, 0.0)
    assert brought.result(STUCK_S) == MINE


# The next copy may be a hundred steps away: what has to end in time is each of them.
def test_many_steps_that_go_on_are_waited_for(thread):
    made = boundaries_of(3)
    brought = thread.submit(made.brought_at, 40)
    for version in range(40):
        made.wanted_at(version)
        threading.Event().wait(0.06)  # together longer than two thirds of the deadline
    come_when_wanted(made, 40)
    made.bring(MINE, 0.0)

    assert brought.result(STUCK_S) == MINE


# It would write where the thread makes room for the next one.
def test_a_copy_that_has_begun_is_waited_for(thread):
    made = boundaries_of(0.6)
    brought = thread.submit(made.brought_at, 5)
    come_when_wanted(made, 5)
    threading.Event().wait(0.5)  # longer than a step may take
    made.bring(MINE, 0.0)

    assert brought.result(STUCK_S) == MINE


def test_a_copy_that_does_not_end_ends_the_snapshots(thread):
    made = boundaries_of(0.3)
    brought = thread.submit(made.brought_at, 5)
    come_when_wanted(made, 5)

    with pytest.raises(TimeoutError, match="a copy that was begun"):
        brought.result(STUCK_S)
