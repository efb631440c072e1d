"""A rank that fails or dies while the groups of a world are made."""

from __future__ import annotations

import os
import signal

import pytest

import training_jobs as jobs
from dynatrain import TransportError
from dynatrain.generation import world_groups
from sessions import outcome, start

#: Ranks wait for one that failed half of it, and its groups are made by nobody else.
DEADLINE_S = 6


class FailsAt:
    """Makes groups, but for the n-th that is asked for."""

    def __init__(self, number, fail):
        self.left, self.fail, self.make = number, fail, world_groups.listed_group

    def __call__(self, *args):
        self.left -= 1
        if self.left == 0:
            self.fail()
        return self.make(*args)


def raise_error(error):
    raise error


def fail_once(rank, world_size, number, error):
    session = start(timeout_s=DEADLINE_S)
    before = jobs.local_bits(session.state)
    if rank == 2:
        world_groups.listed_group = FailsAt(number, lambda: raise_error(error))
    kind, text = outcome(lambda: session.switch("dp=2,tp=2"))
    same = str(session.layout) == "dp=4" and jobs.same_bits(before, jobs.local_bits(session.state))
    return kind, text, same, [session.switch(each).epoch for each in ("dp=2,tp=2", "pp=2", "dp=4")]


# Survivors sat in DeviceMesh to torch's own deadline, half an hour; and as torch names groups by a
# count that then differed between the ranks, no later switch of the job could make its groups.
@pytest.mark.parametrize("number", [1, 3], ids=["first", "third"])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("connection refused"), "TransportError"),
        (MemoryError("no room"), "BudgetError"),
        (ValueError("a bug"), "LayoutError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_rank_that_cannot_make_a_group_is_named_and_the_next_switch_works(
    pool, number, error, kind
):
    for got, text, same, epochs in pool.run(fail_once, number, error, timeout_s=60):
        assert got == kind
        assert str(error) in text
        assert same
        assert epochs == [1, 2, 3]


def interrupted_once(rank, world_size):
    session = start(timeout_s=DEADLINE_S)
    if rank == 2:
        world_groups.listed_group = FailsAt(2, lambda: raise_error(KeyboardInterrupt()))
    try:
        kind = outcome(lambda: session.switch("dp=2,tp=2"))[0]
    except KeyboardInterrupt:
        kind = "interrupted"
    return kind, [session.switch(each).epoch for each in ("dp=2,tp=2", "pp=2", "dp=4")]


def test_an_interrupted_rank_has_the_next_switch_work(pool):
    results = pool.run(interrupted_once, timeout_s=60)

    assert [kind for kind, _ in results] == [
        "interrupted" if rank == 2 else "TransportError" for rank in range(4)
    ]
    assert [epochs for _, epochs in results] == [[1, 2, 3]] * 4


def die_once(rank, world_size, number):
    session = start(timeout_s=DEADLINE_S)
    before = jobs.local_bits(session.state)
    if rank == 2:
        die = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        world_groups.listed_group = FailsAt(number, die)
    with pytest.raises(TransportError) as caught:
        session.switch("dp=2,tp=2")
    return str(caught.value), jobs.same_bits(before, jobs.local_bits(session.state))


@pytest.mark.parametrize("number", [1, 3], ids=["first", "third"])
def test_law7_survivors_of_a_rank_that_dies_in_the_world_keep_their_state(pool, number):
    results = pool.run(die_once, number, may_die={2}, timeout_s=60)

    assert results[2] is None
    for text, same in (results[rank] for rank in (0, 1, 3)):
        assert same
        assert "intact" in text
