"""What ranks bring to a call: where it differs or is wrong on one, all refuse it, and at once."""

from __future__ import annotations

import pytest

from sessions import TIMEOUT_S, outcome, start, works

OTHERS = {
    "layout": "dp=2,tp=2",
    "verify": ("fingerprint",),
    "staging_budget_bytes": 1 << 20,
    "seed": 1,
    "transport": "c10d",
    "timeout_s": TIMEOUT_S + 1,
}


def start_differently(rank, world_size, name):
    options = {"layout": "dp=4"} | ({name: OTHERS[name]} if rank == 2 else {})
    return outcome(lambda: start(**options)), works()


# A first layout that differed hung init; another verify ended one rank with a TypeError, the other
# at the deadline.
@pytest.mark.parametrize("name", OTHERS)
def test_argument_that_differs_between_ranks_is_refused_on_all_at_once(pool, name):
    for (kind, text), again in pool.run(start_differently, name):
        assert (kind, again) == ("LayoutError", True)
        assert f"different {name}" in text
        assert "rank 2" in text


WRONG = {
    "timeout": ({"timeout_s": float("nan")}, "LayoutError"),
    "layout": ({"layout": "dp=0"}, "LayoutError"),
    "device": ({"device": "xyz"}, "DeviceError"),
    "too large": ({"layout": "dp=64"}, "LayoutError"),
}


def start_wrongly(rank, world_size, name):
    options = {"layout": "dp=4"} | (WRONG[name][0] if rank == 1 else {})
    return outcome(lambda: start(**options)), works()


# The ranks whose arguments are right would wait for the one that raised.
@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument_of_one_rank_is_refused_on_all_at_once(pool, name):
    for (kind, _), again in pool.run(start_wrongly, name):
        assert (kind, again) == (WRONG[name][1], True)


def rename_on_some(rank, world_size):
    session = start()
    names = {"head.weight": "top.weight"} if rank < 2 else None
    first = outcome(lambda: session.switch("dp=4", names=names))
    return first, session.switch("dp=4").epoch


def test_names_that_differ_between_ranks_are_refused(pool):
    for (kind, text), epoch in pool.run(rename_on_some):
        assert (kind, epoch) == ("LayoutError", 1)
        assert "top.weight" in text
