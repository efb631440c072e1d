"""What meetings leave in the store: as much after many calls and loops as after a few."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore, TCPStore

from dynatrain import TransportError
from dynatrain.generation.generation import Generation
from dynatrain.generation.members import Members
from dynatrain.generation.options import Options
from dynatrain.generation.rendezvous import _MOST_KEPT, Rendezvous

NUM_RANKS, NUM_TRAINERS = 4, 2
#: What may stand: so many attempts may wait until rank 0 deletes their keys, by who comes last.
MOST_KEYS = 5 * (_MOST_KEPT + 4)
SHORT, LONG = timedelta(seconds=0.02), timedelta(seconds=20)


@pytest.fixture(params=["hash", "tcp"])
def store(request):
    if request.param == "hash":
        return HashStore()
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@pytest.fixture
def members(store):
    def connected():
        """A connection of a rank's own: one that waits answers nobody else meanwhile."""
        if isinstance(store, HashStore):
            return store
        return TCPStore(store.host, store.port, is_master=False, wait_for_workers=False)

    return [Rendezvous(connected(), rank, NUM_RANKS, LONG) for rank in range(NUM_RANKS)]


def together(act, members):
    """What each does in a thread of its own."""
    with ThreadPoolExecutor(len(members)) as threads:
        return list(threads.map(act, members))


def meet(members):
    together(lambda member: member.meet(b""), members)


def most_keys(store, act, rounds):
    """The largest number of keys behind one of the rounds."""
    found = 0
    for _ in range(rounds):
        act()
        found = max(found, store.num_keys())
    return found


# Only rank 0 deletes, and asked for the notes of the last call that had failed on itself.
@pytest.mark.parametrize("failing", [[0], [2], [1, 2, 3], [0, 1, 2, 3]])
def test_notes_of_failed_calls_do_not_pile_up(store, members, failing):
    def call_fails():
        meet(members)
        together(lambda rank: members[rank].failed("an error of its own"), failing)

    assert most_keys(store, call_fails, 8 * _MOST_KEPT) <= MOST_KEYS


# Whoever is the last to come never waits, and so deleted nothing: neither notes nor what was over.
@pytest.mark.parametrize("failing", [[0], [0, 1]])
def test_nothing_piles_up_where_rank_0_is_always_the_last(store, members, failing):
    def call_fails():
        with ThreadPoolExecutor(NUM_RANKS) as threads:
            others = [threads.submit(member.meet, b"") for member in members[1:]]
            store.wait([f"meet/{members[0]._attempt}/count"], LONG)
            while store.add(f"meet/{members[0]._attempt}/count", 0) < NUM_RANKS - 1:
                threading.Event().wait(0.001)  # who asks without end keeps the others out
            members[0].meet(b"")
            for other in others:
                other.result()
        store.set(f"world/{members[0]._attempt}/0/0", "an address")
        members[0].leftovers.add(store, f"world/{members[0]._attempt}")
        together(lambda rank: members[rank].failed("an error of its own"), failing)

    assert most_keys(store, call_fails, 8 * _MOST_KEPT) <= MOST_KEYS


def test_calls_that_are_given_up_between_others_leave_nothing(store, members):
    def given_up_then_met():
        members[1]._timeout = SHORT
        with pytest.raises(TransportError):
            members[1].meet(b"")
        members[1].failed()
        members[1]._timeout = LONG
        meet(members)

    assert most_keys(store, given_up_then_met, 4 * _MOST_KEPT) <= MOST_KEYS


# Each loop of steps left two keys for as long as the session lasted, whether it called something or
# not. Who idles hears the end of every loop, at any time later.
@pytest.mark.parametrize("calls", [False, True])
def test_ends_of_loops_do_not_pile_up(store, members, calls):
    trainers, idle = members[:NUM_TRAINERS], members[NUM_TRAINERS:]
    loops = iter(range(1_000))

    def three_loops():
        names = [f"ended/{next(loops)}" for _ in range(3)]
        for name in names:
            together(lambda member, name=name: member.leave(name, "3", NUM_TRAINERS), trainers)
        for name in names:
            for member in idle:
                assert member.wait_called(name) is False
                assert member.left_with(name, NUM_TRAINERS) == "3"
        if calls:
            meet(members)

    assert most_keys(store, three_loops, 6 * _MOST_KEPT) <= MOST_KEYS


# An idle rank that is behind must find what it is to hear.
def test_end_of_a_loop_stays_until_all_have_heard_it(store, members):
    trainers, (early, late) = members[:NUM_TRAINERS], members[NUM_TRAINERS:]
    for name in ("ended/0", "ended/1", "ended/2"):
        together(lambda member, name=name: member.leave(name, name, NUM_TRAINERS), trainers)
        early.left_with(name, NUM_TRAINERS)

    for name in ("ended/0", "ended/1", "ended/2"):
        assert late.wait_called(name) is False
        assert late.left_with(name, NUM_TRAINERS) == name


# A coordinator has called all together and deletes keys of the job: nothing of the store is asked.
def test_members_that_a_coordinator_calls_meet_over_their_groups():
    store, options = HashStore(), Options(LONG, 1024, None, 1, "auto", frozenset(), 0)
    members = Members.of_ranks("called together", 0, 1, store)
    generation = Generation(members, options, torch.device("cpu"), meets_in_store=False)
    generation.control = SimpleNamespace(gather=lambda payload, _: [payload])
    store.set("a world/key", "")

    met = [generation.meet(b"first"), generation.meet(b"second", "a moment", is_dated=False)]
    generation.give_up_keys(store, "a world")

    assert [(each.name, each.payloads) for each in met] == [("0", [b"first"]), ("1", [b"second"])]
    assert store.num_keys() == 1
