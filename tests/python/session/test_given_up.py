"""Calls that were given up: who comes later hears it at once, and the dead are told from the late.

Survivors of a rank that died hear of it at different times and call again at different times.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import FileStore, HashStore, TCPStore

from dynatrain import TransportError
from dynatrain.generation.given_up import Silent
from dynatrain.generation.joined import Entry
from dynatrain.generation.rendezvous import _MOST_KEPT, Rendezvous

SHORT, LONG = timedelta(seconds=0.1), timedelta(seconds=60)
MOMENT = "switch dp=2 after 3 steps"


@pytest.fixture(params=["hash", "tcp", "file"])
def ranks_of_store(request, tmp_path):
    """Makes ranks that meet over a store of each kind, each with a connection of its own."""
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = HashStore()
    of_rank = {
        "hash": lambda: shared,
        "tcp": lambda: TCPStore("127.0.0.1", server.port, wait_for_workers=False),
        "file": lambda: FileStore(str(tmp_path / "store"), 4),
    }[request.param]
    return lambda num_ranks: [
        Rendezvous(of_rank(), rank, num_ranks, LONG) for rank in range(num_ranks)
    ]


def ranks_of(store, num_ranks):
    return [Rendezvous(store, rank, num_ranks, LONG) for rank in range(num_ranks)]


def outcome(member, moment=MOMENT, timeout=LONG):
    """The names of a meeting, or the error, of a call that waits so long."""
    member._timeout = timeout
    try:
        return member.meet(b"", moment).name
    except TransportError as error:
        return error


def together(members, moment=MOMENT):
    with ThreadPoolExecutor(len(members)) as threads:
        return list(threads.map(lambda member: outcome(member, moment), members))


def given_up(members, moment=MOMENT):
    """Some members call; the first of them gives up on the rest, and all return what they heard."""
    with ThreadPoolExecutor(len(members)) as threads:
        calls = [threads.submit(outcome, member, moment) for member in members[1:]]
        for member in members[1:]:
            wait_until_came(member, members[0])
        return [outcome(members[0], moment, SHORT), *(call.result() for call in calls)]


def wait_until_came(member, seen_by):
    """A rank that waits for a decision holds its connection: another one looks."""
    while member._rank not in seen_by._entries(f"{member._last_met + 1}/came"):
        time.sleep(0.001)


# It waited alone until its deadline, to be told that those who had waited for it did not arrive.
def test_rank_that_comes_too_late_is_told_so_at_once(ranks_of_store):
    members = ranks_of_store(4)
    early = given_up(members[:2])
    late = outcome(members[3])

    assert all("ranks [2, 3] did not arrive" in str(error) for error in early)
    assert all(f"within 0.1 s: {MOMENT} (meeting" in str(error) for error in early)
    assert "this rank came after the others had given the call up" in str(late)
    assert "ranks [2] did not arrive" in str(late)
    assert "0.1 s" in str(late)  # what the others waited
    assert late.peer == 2
    assert late.retryable


def test_rank_that_alone_was_late_is_told_that_nobody_else_was_missing():
    members = ranks_of(HashStore(), 2)
    given_up(members[:1])
    late = outcome(members[1])

    assert "it alone was missing" in str(late)
    assert late.peer == -1


# Each rank calls again whenever its script does: the n-th calls of all ranks belong together.
def test_next_call_of_a_late_rank_meets_the_next_call_of_the_others(ranks_of_store):
    members = ranks_of_store(3)
    given_up(members[:1])
    given_up(members[:1])  # rank 0 alone, once more
    assert [type(outcome(members[rank])) for rank in (1, 2, 1, 2)] == [TransportError] * 4

    assert together(members) == ["2"] * 3


# Without a loop no step tells calls apart: where some ranks called by mistake, and those that did
# not went on, their calls would miss each other for ever.
def test_rank_without_a_loop_passes_over_what_was_given_up():
    members = ranks_of(HashStore(), 2)
    given_up(members[:1])
    with ThreadPoolExecutor(1) as threads:
        called = threads.submit(members[1].meet, b"", MOMENT, is_dated=False)

        assert outcome(members[0]) == called.result().name == "1"


# It came one attempt behind the others from then on, to calls that they had given up, as long as it
# called at the same moment: outside of session.steps() for ever.
def test_rank_that_left_a_call_by_itself_meets_the_others_in_the_next():
    members = ranks_of(HashStore(), 3)
    for _ in range(2):
        members[1].begin_call()
        members[1].failed("KeyboardInterrupt")
        others = [members[0], members[2]]
        assert all("ranks [1] did not arrive" in str(each) for each in given_up(others))
        for each in others:
            each.failed()
        for each in members:
            each.begin_call()
        assert len({*together(members)}) == 1  # the name of a meeting, and no error


# A call that this rank does not make is not over for it.
def test_late_rank_passes_over_calls_of_another_moment():
    members = ranks_of(HashStore(), 2)
    given_up(members[:1], "switch dp=2 after 3 steps")
    given_up(members[:1], "check tp=2 after 3 steps")

    assert together(members, "switch dp=2 after 4 steps") == ["2", "2"]


# An idle rank makes no call of its own: it takes part in the one that stands.
def test_idle_rank_passes_over_what_was_given_up():
    trainer, idle = ranks_of(HashStore(), 2)
    given_up([trainer])
    with ThreadPoolExecutor(1) as threads:
        called = threads.submit(outcome, idle, "")

        assert outcome(trainer) == called.result() == "1"


# An idle rank came to the call, too, and its deadline was the first to pass.
def test_call_that_an_idle_rank_gave_up_is_over_for_late_ranks():
    trainer, idle, late = ranks_of(HashStore(), 3)
    with ThreadPoolExecutor(1) as threads:
        called = threads.submit(outcome, trainer)
        wait_until_came(trainer, idle)
        outcome(idle, "", SHORT)
        called.result()

    assert "after the others had given the call up" in str(outcome(late))


# Ranks that were late were accused like the dead one, and no peer was named.
def test_dead_rank_is_told_from_one_that_is_late(ranks_of_store):
    members = ranks_of_store(4)
    together(members)
    for rank in (0, 1, 3):  # rank 2 has died in an exchange
        members[rank].failed()
    early = given_up(members[:2])
    late = outcome(members[3])

    for error in early:
        assert "ranks [2, 3] did not arrive" in str(error)
        assert "rank 2 has not been heard of since the last call failed: it has died or is" in str(
            error
        )
        assert "rank 3 has been, but did not call again in time" in str(error)
    assert "rank 2 has not been heard of" in str(late)
    assert "rank 3" not in str(late)
    assert {error.peer for error in (*early, late)} == {2}


def test_several_dead_ranks_are_all_named():
    members = ranks_of(HashStore(), 5)
    together(members)
    members[0].failed()
    error, _ = given_up([members[0], members[3]])

    assert "ranks [1, 2, 4] have not been heard of since the last call failed: they" in str(error)
    assert "in time" not in str(error)
    assert error.peer == -1


# Nobody can tell then: a rank that trains on slowly is no dead one.
def test_nobody_is_suspected_where_no_call_has_failed():
    members = ranks_of(HashStore(), 3)
    together(members)
    error, _ = given_up(members[:2])

    assert "heard of" not in str(error)
    assert error.peer == 2


# The call ended well for it, as it does for who was done with an exchange when another rank died.
def test_rank_that_came_to_a_call_since_has_been_heard_of():
    members = ranks_of(HashStore(), 3)
    together(members)
    members[0].failed()
    given_up(members[:1])
    outcome(members[1])
    error = outcome(members[0], timeout=SHORT)

    assert "rank 2 has not been heard of" in str(error)
    assert "rank 1 has been" in str(error)


def test_failure_before_the_last_meeting_says_nothing_any_more():
    members = ranks_of(HashStore(), 3)
    together(members)
    members[0].failed()
    together(members)
    error = outcome(members[1], timeout=SHORT)  # rank 0 deletes keys while it waits

    assert "heard of" not in str(error)


def test_failure_is_said_once_and_its_key_deleted():
    store = HashStore()
    members = ranks_of(store, 2)
    together(members)
    for _ in range(3):
        members[0].failed()
    said = store.get("meet/0/failed")
    for _ in range(2 * _MOST_KEPT):
        together(members)

    assert said == Entry("", b"").of(0)
    assert not store.check(["meet/0/failed"])


# It is said while an error is on its way to the script, which must hear that one.
@pytest.mark.parametrize("met", [RuntimeError, OSError, MemoryError, ValueError])
@pytest.mark.parametrize("where", ["_append", "_who_is_silent"])
def test_store_that_is_gone_does_not_hide_the_failure(monkeypatch, where, met):
    (member,) = ranks_of(HashStore(), 1)

    def fail(*_):
        raise met("the store is gone")

    monkeypatch.setattr(member, where, fail)
    assert member.failed() is None


# Python keeps what is no text in a path as halves of surrogates, which no encoding takes.
def test_why_a_rank_has_left_may_name_a_file_whose_name_is_no_text():
    first, second = ranks_of(HashStore(), 2)
    first.failed("FileNotFoundError: data-\udcff.bin")
    told = second.failed()

    assert told.ranks == ()
    assert told.left == {0: "FileNotFoundError: data-\\udcff.bin"}


def test_error_that_says_nothing_is_named_too():
    named = Silent((1,), {}).named(TransportError(""))

    assert "not heard of since: rank 1" in str(named)
