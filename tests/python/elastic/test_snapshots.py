"""Snapshots of members that are threads: who keeps what, and what of it can be gone back to."""

from __future__ import annotations

import threading

import pytest
import torch

from dynatrain import Layout, TransportError, _native
from dynatrain.elastic import copies, rounds
from dynatrain.elastic.partners import Brought, Channel, Said
from ranks_in_threads import Outside, run_ranks
from toy_state import Place, Toy, ToyAdapter
from trained_toys import WAIT, Job, Trains, fill, members_of

# ---- the way there -------------------------------------------------------------------------------


def state_of(rank):
    size = 64 * (rank + 1)
    blob, nothing = b"blob", frozenset()
    return copies.CopiedState(
        1, "dp=2", 5, f"member {rank}", size, blob, {}, None, {}, nothing, nothing
    )


# With three there is no pair that keeps each other's: what is sent to one is received of another.
@pytest.mark.parametrize("num_ranks", [2, 3, 4, 5])
def test_bytes_arrive_at_the_keeper(num_ranks, monkeypatch):
    monkeypatch.setattr("dynatrain.elastic.partners._PIECE_BYTES", 100)
    outside = Outside(num_ranks)

    def work(rank):
        channel = Channel(members_of(outside, rank), WAIT)
        state = state_of(rank)
        own = torch.full((state.size_bytes,), rank + 1, dtype=torch.uint8)
        rooms = []

        def room_for(other):
            rooms.append(torch.zeros(other.state.size_bytes, dtype=torch.uint8))
            return rooms[0]

        other = channel.swap(Brought(state, 7, state.size_bytes), own, room_for)
        agreed = channel.agree(Said(rank, "full" if rank == 1 else ""))
        return channel.kept, other, rooms[0], agreed

    for kept, other, room, agreed in run_ranks(outside, work):
        assert other.state == state_of(kept)
        assert room.tolist() == [kept + 1] * state_of(kept).size_bytes
        assert (agreed.at, agreed.why) == (num_ranks - 1, ((1, "full"),))


# Its memory is full, or it has copied nothing: nobody waits for bytes that do not come.
def test_a_rank_without_room_holds_up_nobody():
    outside = Outside(2)

    def work(rank):
        channel = Channel(members_of(outside, rank), WAIT)
        state = state_of(rank) if rank else None
        own = None if state is None else torch.ones(state.size_bytes, dtype=torch.uint8)
        for _ in range(2):
            channel.swap(Brought(state, 0, 0, "no copy"), own, lambda _: None)
        return channel.agree(Said(3, "", soon=True)).at

    assert run_ranks(outside, work) == [3, 3]


# ---- rounds --------------------------------------------------------------------------------------


def fingerprint(tables):
    """Of what the tables of all ranks say together; they must cover it."""
    blobs = [(table.encode(), [rank]) for rank, table in enumerate(tables)]
    whole = _native.ShardMap.merge(blobs)
    whole.prove_coverage()
    for rank, table in enumerate(tables):
        whole.prove_live(rank, table)
    shares = [_native.fingerprint_share(whole, rank, table) for rank, table in enumerate(tables)]
    return sum(shares) % 2**64


def states_after(steps, num_ranks, layout):
    """The tables of the toys of all ranks after so many steps, and what holds their memory."""
    states = [Toy(Place(Layout.parse(layout), rank)) for rank in range(num_ranks)]
    for state in states:
        state.give_memory()
        fill(state)
        for array in state.arrays.values():
            array += steps
    inventories = [ToyAdapter(fill).inventory(state) for state in states]
    return [each.table() for each in inventories], states


# The one sentence of it all: with a member gone, the others have every element of the version.
@pytest.mark.parametrize("layout", ["dp=4", "dp=2,tp=2"])
@pytest.mark.parametrize("lost", range(4))
def test_what_a_member_held_is_there_without_it(lost, layout):
    outside = Job(4)

    def work(rank):
        trains = Trains(outside, rank, layout=layout)
        trains.until_whole(2)
        version = max(
            set.intersection(*map(set, outside.together(rank, trains.snapshots.versions)))
        )
        holders = {f"member {other}" for other in range(4) if other != lost}
        return version, None if rank == lost else trains.held(version, holders)

    found = run_ranks(outside, work)
    version = found[0][0]
    tables = [held.table for _, held in found if held is not None]
    expected, _states = states_after(version, 4, layout)
    assert fingerprint(tables) == fingerprint(expected)


# A rank that was late set its next copy further ahead than the others: what all took for whole was
# of several versions, and could not be put together.
def test_all_copy_at_one_boundary_behind_a_round_that_came_late_to_some():
    outside = Job(3)

    def work(rank):
        trains = Trains(outside, rank, layout="dp=3")
        brought_at, was_late = trains.snapshots._rounds.boundaries.brought_at, []

        def late_once(due):
            if rank != 1 or was_late:
                return brought_at(due)
            was_late.append(due)
            return Brought(None, 0, 0, rounds.LATE)

        trains.snapshots._rounds.boundaries.brought_at = late_once
        trains.until_whole(4)
        return trains.snapshots.versions

    found = run_ranks(outside, work)
    assert set.intersection(*map(set, found))


# The step after a copy writes where the copy was taken from, and the next copy goes elsewhere.
def test_a_copy_is_not_written_by_later_steps():
    outside = Job(2)

    def work(rank):
        trains = Trains(outside, rank, layout="dp=2")
        trains.until_whole(3)
        newest, older = trains.snapshots.versions
        holders = {"member 0", "member 1"}
        return older, trains.held(older, holders), newest, trains.held(newest, holders)

    found = run_ranks(outside, work)
    for at in (0, 2):
        expected, _states = states_after(found[0][at], 2, "dp=2")
        assert fingerprint([each[at + 1].table for each in found]) == fingerprint(expected)


# A bit that has turned in the copy of one rank must be told, not trained on.
def test_a_copy_that_has_changed_is_refused():
    outside = Job(2)

    def work(rank):
        trains = Trains(outside, rank, layout="dp=2")
        trains.until_whole(1)
        trains.snapshots.halt()
        slot = trains.snapshots._slots.of(trains.snapshots.versions[-1])
        copies.bytes_of(slot.run)[-1] ^= 1  # of the other's part
        version = slot.version
        with pytest.raises(TransportError, match=f"member {1 - rank} after {version} steps"):
            trains.snapshots.held(version, [])
        return trains.snapshots.held(version, ["member 0", "member 1"]) is not None

    assert run_ranks(outside, work) == [True, True]


# What has come is another thing than what was sent. The one before it must still be there.
def test_a_copy_that_arrives_changed_costs_the_older_one_nothing(monkeypatch):
    outside = Job(2)
    wrong = threading.Event()
    taken = rounds._took

    def took(slot, other):
        if wrong.is_set():
            copies.bytes_of(slot.run)[-8:] ^= 255
        return taken(slot, other)

    monkeypatch.setattr(rounds, "_took", took)

    def work(rank):
        trains = Trains(outside, rank, every=2, layout="dp=2")
        trains.until_whole(1)
        outside.together(rank, None)
        wrong.set()
        whole = int(trains.told[-1][1].split()[1])
        trains.to(trains.state.steps + 40)
        trains.snapshots.halt()
        return whole in trains.snapshots.versions and trains.snapshots.keeps_for_another(whole, [])

    assert run_ranks(outside, work) == [True, True]


# One host is full. Nobody's training stops, and nobody's copies are used.
def test_without_memory_there_is_no_snapshot_and_training_goes_on(monkeypatch):
    monkeypatch.setattr(_native, "available_host_bytes", lambda: 300)
    outside = Job(2)

    def work(rank):
        trains = Trains(outside, rank, layout="dp=2")
        trains.to(30)
        trains.snapshots.halt()
        return trains.told, trains.snapshots.versions

    assert run_ranks(outside, work) == [([], []), ([], [])]


# ---- what may be gone back to --------------------------------------------------------------------


# The job went back to step 10 and does step 11 anew, in another layout, with other bits: a copy of
# step 20 that one member still had would be joined with one of the new step 20.
def test_what_was_undone_is_forgotten():
    outside = Job(2)

    def work(rank):
        trains = Trains(outside, rank, layout="dp=2")
        trains.until_whole(2)
        trains.snapshots.halt()
        newest, older = trains.snapshots.versions
        trains.joins(older, trains=False)
        return trains.snapshots.versions == [older], newest > older

    assert run_ranks(outside, work) == [(True, True), (True, True)]


# The others have no copies of the world that they train in yet: a loss needs these.
def test_copies_stay_with_who_has_no_place_any_more_until_they_are_forgotten():
    outside = Job(2)

    def work(rank):
        trains = Trains(outside, rank, layout="dp=2")
        trains.until_whole(1)
        trains.joins(trains.state.steps, trains=False)
        kept = trains.snapshots.versions
        copied = trains.snapshots.copied_of(kept[0], ())
        trains.snapshots.forget()
        return len(kept), copied, trains.snapshots.versions, trains.snapshots._slots.spare.run

    each = ("member 0", "member 1")
    assert run_ranks(outside, work) == [(1, each, [], None), (1, each[::-1], [], None)]


def test_the_world_of_a_whole_snapshot_is_told():
    outside = Job(2)

    def work(rank):
        trains = Trains(outside, rank, layout="dp=2")
        trains.until_whole(1)
        trains.snapshots.halt()
        return {*trains.epochs}

    assert run_ranks(outside, work) == [{(1, False)}, {(1, False)}]


# A member dies while its copies are on their way: the thread of the others ends, and what they have
# copied themselves stays.
def test_a_partner_that_dies_ends_nothing_but_the_snapshots():
    outside = Job(2)

    def work(rank):
        trains = Trains(outside, rank, layout="dp=2")
        trains.until_whole(1)
        if rank:
            outside.kill(rank)
        for _ in range(20):
            trains.step()
        trains.snapshots.halt()
        return bool(trains.snapshots.versions)

    assert run_ranks(outside, work) == [True, None]


# It hung in a file system for more than a minute: what came next was copied into memory that it
# still wrote to, and nobody was told.
def test_a_thread_that_does_not_end_shares_no_memory_with_what_is_copied_next(monkeypatch, caplog):
    monkeypatch.setattr(rounds, "_ENDING", 0.01 / WAIT.total_seconds())
    goes_on = threading.Event()
    trains = Trains(Job(1), 0, layout="dp=1")
    trains.snapshots.halt()
    for _ in range(2):
        slot = trains.snapshots._slots.spare
        slot.make_room(trains.snapshots._size(), torch.device("cpu"))
        assert not trains.snapshots._copied(len(trains.snapshots.versions)).why
        trains.snapshots._slots.is_whole()
    late = trains.snapshots._slots.spare
    hangs = lambda _: goes_on.wait(WAIT.total_seconds())  # noqa: E731
    monkeypatch.setattr(rounds.Rounds, "_do_rounds", hangs)
    trains.snapshots._begin(None)
    thread = trains.snapshots._rounds
    trains.snapshots.halt()
    found = trains.snapshots._slots
    goes_on.set()
    thread.join(WAIT.total_seconds())

    assert "has not ended within 0.01 s" in caplog.text
    assert trains.snapshots.versions == [1]
    assert all(each is not late and each.run is not late.run for each in found._both)


# A member died right behind a switch, while the others connected for the snapshots of their new
# world. No connection stood that could be cut: their training threads waited for all of timeout_s,
# and the coordinator took healthy members for lost, as it had no report of them.
@pytest.mark.parametrize("where", ["members", "channel"])
def test_nobody_waits_for_a_thread_that_still_connects(where, monkeypatch):
    connects, goes_on = threading.Event(), threading.Event()
    trains = Trains(Job(1), 0, layout="dp=1")
    trains.snapshots.halt()
    slots = trains.snapshots._slots

    def connect(*_, **__):
        connects.set()
        assert goes_on.wait(WAIT.total_seconds())

    members = lambda _: members_of(trains.outside, 0)  # noqa: E731
    monkeypatch.setattr(rounds.Rounds, "join", lambda *_: pytest.fail("it is waited for"))
    if where == "channel":
        monkeypatch.setattr(rounds, "Channel", connect)
    trains.snapshots._begin(connect if where == "members" else members)
    thread = trains.snapshots._rounds
    assert connects.wait(WAIT.total_seconds())
    trains.snapshots.halt()

    assert trains.snapshots._slots is slots
    monkeypatch.setattr(slots, "_both", ())  # what it touches from now on, it has no right to
    goes_on.set()
    threading.Thread.join(thread, WAIT.total_seconds())
    assert not thread.is_alive()


# Behind the decision nothing of the library may fail: the member died, and took another along.
def test_without_a_thread_there_are_no_snapshots_and_training_goes_on(monkeypatch, caplog):
    trains = Trains(Job(1), 0, layout="dp=1")
    trains.snapshots.halt()

    def start(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(rounds.Rounds, "start", start)
        trains.joins(0, trains=True)
    trains.step()
    trains.snapshots.halt()

    assert trains.snapshots._rounds is None


def test_a_thread_that_has_ended_costs_no_copies(caplog):
    trains = Trains(Job(1), 0, layout="dp=1")
    slots = trains.snapshots._slots
    trains.snapshots.halt()

    assert trains.snapshots._slots is slots
    assert caplog.text == ""
