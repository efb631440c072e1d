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


#: And what names each.
MISTAKES = {
    "unknown axis": (lambda session, call: call("dq=4"), "dq"),
    "no layout": (lambda session, call: call(3), "3"),
    "names": (lambda session, call: call("dp=2,tp=2", names=["head.weight"]), "head.weight"),
}


def call_wrongly(rank, world_size, mistake, op):
    session = start()
    call = getattr(session, op)
    fault = outcome(lambda: MISTAKES[mistake][0](session, call) if rank == 2 else call("dp=2,tp=2"))
    return fault, session.switch("dp=2,tp=2").epoch


# They waited for it until the deadline, and heard that it was not there; later of a call to another
# layout, which nobody had named.
@pytest.mark.parametrize("op", ["switch", "check", "prepare"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_argument_of_a_call_on_one_rank_is_told_to_all(pool, mistake, op):
    for rank, ((kind, text), epoch) in enumerate(pool.run(call_wrongly, mistake, op)):
        assert (kind, epoch) == ("LayoutError", 1)
        assert rank == 2 or "rank 2" in text, text
        assert MISTAKES[mistake][1] in text
        assert "different calls" not in text


def rename_on_some(rank, world_size):
    session = start()
    names = {"head.weight": "top.weight"} if rank < 2 else None
    first = outcome(lambda: session.switch("dp=4", names=names))
    return first, session.switch("dp=4").epoch


def test_names_that_differ_between_ranks_are_refused(pool):
    for (kind, text), epoch in pool.run(rename_on_some):
        assert (kind, epoch) == ("LayoutError", 1)
        assert "top.weight" in text
