"""Calls that all ranks make together: what one of them refuses with, all raise."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from dynatrain import (
    BudgetError,
    DeviceError,
    Error,
    InternalError,
    Layout,
    LayoutError,
    TransportError,
)
from dynatrain.generation.rendezvous import Rendezvous
from dynatrain.switch.calls import Call, Calls, check_target


def call_together(*problems):
    """Every rank makes the same call, each with its problem; returns what each met."""
    store, timeout = HashStore(), timedelta(seconds=20)

    def call(rank):
        calls = Calls(Rendezvous(store, rank, len(problems), timeout))
        try:
            return calls.meet(Call("switch", "dp=2", 1, False, True), problems[rank])
        except Error as error:
            return error

    with ThreadPoolExecutor(len(problems)) as threads:
        return list(threads.map(call, range(len(problems))))


# An idle rank that has left a switch waits for calls again: were it taken for a vote, it would stay
# behind in the world that the others leave.
def test_rank_that_waits_for_calls_is_no_vote():
    store, timeout = HashStore(), timedelta(seconds=20)

    def call(rank):
        own = Call("attend", "", 0, True, True) if rank == 2 else Call("commit", "dp=2", 1, 1, 1)
        with pytest.raises(LayoutError, match="made different calls"):
            Calls(Rendezvous(store, rank, 3, timeout)).meet(own)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(call, range(3)))


# Nothing else would tell: they make the same call after the same number of steps.
def test_ranks_in_different_worlds_are_refused_on_all():
    store, timeout = HashStore(), timedelta(seconds=20)

    def call(rank):
        own = Call("switch", "dp=2", 1, True, True, epoch=4 if rank == 2 else 3)
        with pytest.raises(InternalError, match="rank 2: epoch 4"):
            Calls(Rendezvous(store, rank, 3, timeout)).meet(own)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(call, range(3)))


# A script that answers to a lack of memory by a smaller layout has to do so on all ranks.
@pytest.mark.parametrize(
    "problem",
    [
        BudgetError("no room", 30, 20),
        DeviceError("the GPU is gone"),
        TransportError("away", peer=3),
    ],
    ids=lambda problem: type(problem).__name__,
)
def test_refusal_of_one_rank_is_of_its_kind_with_its_facts_on_all(problem):
    errors = call_together(None, problem, None)

    assert errors[1] is problem
    for error in (errors[0], errors[2]):
        assert type(error) is type(problem)
        assert vars(error) == vars(problem)
        assert f"rank 1: {type(problem).__name__}: {problem}" in str(error)


def test_refusals_of_two_kinds_are_of_the_kind_of_the_lowest_rank():
    own = BudgetError("no room", 30, 20)
    errors = call_together(None, LayoutError("not now"), own)

    assert {type(error) for error in errors} == {LayoutError}
    assert "rank 2: BudgetError: no room" in str(errors[2])
    assert errors[2].__cause__ is own


class Short:
    """A kept object that has no memory for any layout."""

    def check_layout(self, layout):
        raise BudgetError(f"no room for {layout}", 30, 20)


def test_kept_object_refuses_with_a_kind_of_its_own():
    with pytest.raises(BudgetError, match="no room for dp=2") as refused:
        check_target(Layout(dp=2), 2, {"cache": Short()})

    assert refused.value.required_bytes == 30
