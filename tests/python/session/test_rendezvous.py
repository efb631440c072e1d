"""Meetings: all ranks get the same answer, whoever is missing, late or early."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from dynatrain import TransportError
from dynatrain.generation.joined import Entry
from dynatrain.generation.rendezvous import Rendezvous

SHORT, LONG = timedelta(seconds=0.3), timedelta(seconds=20)


def ranks(num_ranks, timeout=LONG):
    store = HashStore()
    return [Rendezvous(store, rank, num_ranks, timeout) for rank in range(num_ranks)]


def meet_together(members, payloads):
    """Everyone meets in a thread of its own; returns the meeting or the error of each."""

    def attempt(member, payload):
        try:
            return member.meet(payload)
        except TransportError as error:
            return error

    with ThreadPoolExecutor(len(members)) as threads:
        return list(threads.map(attempt, members, payloads))


def test_everybody_learns_what_everybody_brought():
    meetings = meet_together(ranks(4), [b"a", b"b", b"", b"d"])

    assert [list(meeting.payloads) for meeting in meetings] == [[b"a", b"b", b"", b"d"]] * 4
    assert len({meeting.name for meeting in meetings}) == 1


# The next meeting must not read what was brought to the last one.
def test_meetings_follow_each_other():
    members = ranks(3)
    names = set()
    for round_number in range(5):
        brought = [f"{round_number}:{rank}".encode() for rank in range(3)]
        meetings = meet_together(members, brought)
        assert [list(meeting.payloads) for meeting in meetings] == [brought] * 3
        names.add(meetings[0].name)
    assert len(names) == 5


def meet_without_others(num_ranks, came):
    """Two ranks come, one after the other, and the last waits SHORT; returns their errors."""
    store = HashStore()
    first, last = (Rendezvous(store, rank, num_ranks, LONG) for rank in came)
    last._timeout = SHORT
    with ThreadPoolExecutor(1) as threads:
        early = threads.submit(meet_together, [first], [b""])
        store.wait(["meet/0/came"], LONG)
        return [*meet_together([last], [b""]), *early.result()]


# "A rank is missing" is of no use to somebody with a thousand of them.
def test_missing_ranks_are_named_to_all_that_came():
    for error in meet_without_others(4, came=(0, 2)):
        assert isinstance(error, TransportError)
        assert "[1, 3]" in str(error)
        assert "intact" in str(error)
        assert error.peer == -1


def test_a_single_missing_rank_is_the_error_s_peer():
    for error in meet_without_others(3, came=(0, 1)):
        assert error.peer == 2
        assert error.retryable


# Nobody is missing then: a rank that was slow between two store calls must not be waited for again.
def test_rank_that_brought_its_payload_but_is_not_counted_yet_takes_part():
    store = HashStore()
    store.append("meet/0/came", Entry("", b"slow").of(1))

    meeting = Rendezvous(store, 0, 2, SHORT).meet(b"quick")

    assert list(meeting.payloads) == [b"quick", b"slow"]


# Were a late arrival let into a meeting that the others gave up, it would go on alone.
def test_a_late_caller_starts_a_new_meeting():
    members = ranks(2, SHORT)
    with pytest.raises(TransportError, match=r"\[1\]"):
        members[0].meet(b"early")

    with pytest.raises(TransportError, match=r"\[0\]"):
        members[1].meet(b"late")


def test_a_meeting_after_a_failed_one_works():
    members = ranks(3, SHORT)
    with pytest.raises(TransportError):
        members[0].meet(b"alone")
    for member in members:
        member._timeout = LONG

    meetings = meet_together(members, [b"x", b"y", b"z"])

    assert [list(meeting.payloads) for meeting in meetings] == [[b"x", b"y", b"z"]] * 3


# The answer is one write-once key: who arrives while others give up hears what they hear.
@pytest.mark.parametrize("seed", range(5))
def test_all_answers_agree_when_the_last_arrival_races_the_deadline(seed):
    members = ranks(2, timedelta(seconds=0.05))
    barrier = threading.Event()
    answers = {}

    def early():
        barrier.set()
        answers[0] = meet_together(members[:1], [b"early"])[0]

    def late():
        barrier.wait()
        threading.Event().wait(0.03 + 0.01 * seed)
        answers[1] = meet_together(members[1:], [b"late"])[0]

    threads = [threading.Thread(target=target) for target in (early, late)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert isinstance(answers[0], TransportError) == isinstance(answers[1], TransportError)


def test_an_idle_rank_hears_a_call_and_the_end_of_the_loop():
    trainer, idle = ranks(2)
    with ThreadPoolExecutor(2) as threads:
        heard = threads.submit(idle.wait_called, "ended")
        called = threads.submit(trainer.meet, b"")
        assert heard.result(10) is True
        idle.meet(b"")
        called.result(10)
        heard = threads.submit(idle.wait_called, "ended")
        trainer.leave("ended", "3", 1)
        assert heard.result(10) is False


# A meeting that failed before the idle rank looked is over; waking for it would hang the rank.
def test_an_idle_rank_skips_meetings_that_were_given_up():
    trainer, idle = ranks(2, SHORT)
    with pytest.raises(TransportError):
        trainer.meet(b"")
    trainer.leave("ended", "3", 1)

    assert idle.wait_called("ended") is False
