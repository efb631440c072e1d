"""What a meeting asks of the store: little of each rank, however many there are."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import FileStore, HashStore

from dynatrain import TransportError
from dynatrain.generation.joined import Entry, entries, join, split
from dynatrain.generation.rendezvous import _MOST_KEPT, Rendezvous


class Counting:
    """A store that counts what it is asked."""

    def __init__(self, store):
        self._store = store
        self.asked = Counter()

    def __getattr__(self, name):
        method = getattr(self._store, name)

        def counted(*args):
            self.asked[name] += 1
            return method(*args)

        return counted


def members_of(store, num_ranks):
    members = [
        Rendezvous(store, rank, num_ranks, timedelta(seconds=20)) for rank in range(num_ranks)
    ]
    for member in members:
        member._store = Counting(member._store)
    return members


def meet(members, rounds):
    with ThreadPoolExecutor(len(members)) as threads:
        for _ in range(rounds):
            list(threads.map(lambda member: member.meet(b"the same"), members))


# Each of N ranks read N payloads: 6 s of every switch at 512 ranks.
@pytest.mark.parametrize("num_ranks", [2, 24])
def test_requests_of_a_rank_do_not_grow_with_the_number_of_ranks(num_ranks):
    members = members_of(HashStore(), num_ranks)
    meet(members, rounds=1)

    requests = [sum(member._store.asked.values()) for member in members]
    assert max(requests) <= 6
    assert sum(requests) <= 5 * num_ranks


# A file has no call for many keys.
def test_ranks_meet_over_a_store_that_reads_one_key_at_a_time(tmp_path):
    members = [
        Rendezvous(FileStore(str(tmp_path / "store"), 3), rank, 3, timedelta(seconds=20))
        for rank in range(3)
    ]
    with ThreadPoolExecutor(3) as threads:
        meetings = list(
            threads.map(
                lambda pair: pair[1].meet(pair[0]), zip([b"a", b"", b"a"], members, strict=True)
            )
        )

    assert [meeting.payloads for meeting in meetings] == [[b"a", b"", b"a"]] * 3


# Its waits end by an error that no other store raises: the ranks that came were told of a bug.
def test_missing_rank_is_named_over_a_file_too(tmp_path):
    member = Rendezvous(FileStore(str(tmp_path / "store"), 2), 0, 2, timedelta(seconds=0.2))

    with pytest.raises(TransportError, match=r"ranks \[1\] did not arrive"):
        member.meet(b"alone")


# A job of a month meets millions of times. Who is the last to come deletes nothing while the others
# wait for it, and what it has left later.
@pytest.mark.parametrize("late", [None, 0, 2])
def test_keys_of_earlier_meetings_are_deleted(late):
    store = HashStore()
    members = members_of(store, 3)
    meet(members, rounds=1)
    after_one = store.num_keys()
    if late is not None:
        come = members[late].meet
        members[late].meet = lambda payload: time.sleep(0.01) or come(payload)
    meet(members, rounds=40)

    assert store.num_keys() <= (_MOST_KEPT + 2) * after_one


# A vote that is known is no failure of the rank that cannot clean up after it.
def test_meeting_stands_where_keys_cannot_be_deleted(monkeypatch):
    members = members_of(HashStore(), 2)
    meet(members, rounds=1)

    def fail(key):
        raise RuntimeError("the store is gone")

    for member in members:
        monkeypatch.setattr(member._store, "delete_key", fail, raising=False)
    meet(members, rounds=1)
    assert members[0]._attempt == 2


# Attempts that were given up leave keys, too, until all have met.
def test_keys_of_attempts_that_were_given_up_are_deleted():
    store = HashStore()
    members = members_of(store, 2)
    meet(members, rounds=1)
    after_one = store.num_keys()
    members[0]._timeout = timedelta(seconds=0.1)
    for _ in range(20):
        with pytest.raises(TransportError):
            members[0].meet(b"alone")
    members[0]._timeout = timedelta(seconds=20)
    meet(members, rounds=2 * _MOST_KEPT)

    assert store.num_keys() <= (_MOST_KEPT + 2) * after_one


# At a deadline N ranks asked for N keys each.
def test_missing_ranks_are_found_in_a_few_requests():
    member = members_of(HashStore(), 1024)[5]
    member._timeout = timedelta(seconds=0.05)
    for rank in range(1024):
        if rank != 700:
            member._store.append("0/came", Entry("", b"came").of(rank))
    member._store.asked.clear()

    with pytest.raises(TransportError, match=r"ranks \[700\] did not arrive"):
        member.meet(b"came")
    assert sum(member._store.asked.values()) <= 8


def test_equal_payloads_travel_once():
    answer = join([b"x" * 1000] * 1024)

    assert len(answer) < 1000 + 32
    assert split(answer, 1024) == [b"x" * 1000] * 1024


@pytest.mark.parametrize(
    "damaged",
    [b"", b"\0" * 7, join([b"a"]), join([b"a", b"b"])[:-1], join([b"a", b"b"]) + b"!",
     join([b"a", b"a"])[:-1], join([b"a", b"a"]) + b"!",
     b"\2\0\0\0\2\0\0\0" + b"\7\0\0\0" * 2 + b"\0" * 16, b"\2\0\0\0\0\0\0\0" + b"\0" * 8],
)  # fmt: skip
def test_damaged_answer_is_refused(damaged):
    with pytest.raises(TransportError, match="damaged"):
        split(damaged, 2)


def test_what_ranks_bring_is_read_back_in_any_order():
    brought = {2: Entry("a moment", b""), 0: Entry("", b"\0" * 300), 1: Entry("ü", b"x")}

    assert entries(b"".join(entry.of(rank) for rank, entry in brought.items()), 3) == brought
    assert entries(b"", 3) == {}


# What another version of the library has written must not be taken for a rank that came.
@pytest.mark.parametrize(
    "damaged",
    [b"!", Entry("a", b"b").of(0)[:-1], Entry("", b"").of(2), Entry("", b"").of(1) + b"!"],
)
def test_damaged_entries_are_refused(damaged):
    with pytest.raises(TransportError, match="damaged"):
        entries(damaged, 2)
