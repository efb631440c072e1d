"""Rounds of snapshots that cannot go on begin anew, as soon as all can."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from torch._C._distributed_c10d import HashStore

from dynatrain import Layout, TransportError
from dynatrain.elastic import boundaries, rounds
from dynatrain.elastic.cadence import Cadence
from dynatrain.elastic.copies import SnapshotSlots
from dynatrain.elastic.partners import Channel
from dynatrain.elastic.rounds import Begins, Means, Rounds
from dynatrain.generation import connections
from dynatrain.generation.members import Members
from ranks_in_threads import run_ranks, several
from trained_toys import Job, Trains, members_of


@pytest.fixture
def impatient(monkeypatch):
    """A step has no third of the deadline, and so the next try begins at once."""
    made = boundaries.Boundaries.__init__

    def init(self, timeout_s):
        made(self, timeout_s)
        self.patience_s = 0.5

    monkeypatch.setattr(boundaries.Boundaries, "__init__", init)


def failing_once(monkeypatch, where, on_rank, after):
    """Has a method of Rounds or Channel raise once on a rank, at its ``after``-th call there."""
    owner, name = where
    original, calls = getattr(owner, name), []

    def broken(self, *args, **kwargs):
        found = original(self, *args, **kwargs)
        if self._rank == on_rank:
            calls.append(1)
            if len(calls) == after:
                raise RuntimeError("a message was lost")
        return found

    monkeypatch.setattr(owner, name, broken)


# One message that was lost, or a coordinator that was away when a world began, ended the snapshots
# for as long as the world stood: a month later a death cost all of it.
@pytest.mark.parametrize("on_rank", [0, 2])
@pytest.mark.parametrize("name", ["swap", "agree"])
def test_rounds_that_have_failed_begin_anew(name, on_rank, monkeypatch, impatient):
    failing_once(monkeypatch, (Channel, name), on_rank, 3)
    outside = Job(3)

    def work(rank):
        trains = Trains(outside, rank, layout="dp=3")
        trains.until_whole(4)
        trains.snapshots.halt()
        return [text.split()[1] for _, text in trains.told[:4]]

    found = run_ranks(outside, work)
    assert len({*found[0]}) == 4
    told = [{*each} for each in found]  # versions; one rank may not have heard of one of them
    assert len(told[0] & told[1] & told[2]) >= 3


# It had everything of the round, and has not heard that the others had as well.
def test_what_has_become_whole_for_one_is_whole_for_all(monkeypatch, impatient):
    failing_once(monkeypatch, (Channel, "agree"), 1, 2)  # the first is at the beginning
    outside = Job(2)

    def work(rank):
        trains = Trains(outside, rank, layout="dp=2")
        trains.until_whole(1)
        outside.together(rank)
        trains.snapshots.halt()
        return len(trains.epochs), len(trains.told)

    (heard, _), (caught_up, told) = run_ranks(outside, work)
    assert caught_up >= told + 1  # one that nobody has told it of
    assert abs(heard - caught_up) <= 1  # the next may be whole for one of them already


def test_without_a_store_rounds_wait_for_one(impatient):
    outside, away = Job(2), ["for one", "for the other"]

    def work(rank):
        trains = Trains(outside, rank, layout="dp=2")
        trains.snapshots.halt()

        def store():
            if away:
                away.pop()
                raise TransportError("there is none")
            return outside.store

        trains.snapshots.go_on(Begins(2, 0, Layout(dp=2)), members_of(outside, rank), store)
        trains.until_whole(1)
        trains.snapshots.halt()
        return len(trains.told) >= 1

    assert run_ranks(outside, work) == [True, True]


class Meeting:
    """In place of the groups of a try: its members are there together, or not."""

    def __init__(self, members, timeout, layout, *, keeps):
        connections._meet(members.store, members.rank, members.num_ranks, timeout)
        raise MetError


class MetError(Exception):
    """All members are there."""


def rounds_of(store, rank):
    means = Means(torch.device("cpu"), 1, timedelta(seconds=0.6), lambda: [], None, None)

    def members(_):
        return Members("a world", rank, several(2), store)

    return Rounds(Cadence(4), SnapshotSlots(), means, members, Begins(1, 0, Layout(dp=2))), store


def comes(store, rank, former, lag_s):
    """Tries until all meet; whether they have. ``former``: the try that this rank has left."""
    made, _ = rounds_of(store, rank)
    made._try = former
    threading.Event().wait(lag_s)
    for _ in range(20):  # of 0.6 s; it takes two or three of them at rest
        try:
            made._do_rounds()
        except MetError:
            return True
        except RuntimeError:
            made._leave_try()
    return False


# Each joined a try that the other had just left, again and again: with the other store of a new
# coordinator always, else with a lag between one deadline and the pause behind it.
@pytest.mark.parametrize("lag_s", [0.0, 0.01, 0.3, 0.65, 0.75, 0.9])
@pytest.mark.parametrize("former", ["", "of a former store"])
def test_members_meet_however_late_one_of_them_comes(monkeypatch, former, lag_s):
    monkeypatch.setattr(rounds, "Channel", Meeting)
    store = HashStore()
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(comes, store, rank, former, rank * lag_s) for rank in range(2)]
    assert [each.result() for each in both] == [True, True]


@pytest.mark.parametrize(("rank", "left"), [(0, ["c/here/0"]), (1, ["a/here/1", "c/here/0"])])
def test_one_rank_deletes_what_former_tries_have_left(rank, left):
    made, store = rounds_of(HashStore(), rank)
    for key in ("a/here/1", "c/here/0"):
        store.set(key, "")
    made._meeting, made._former = store, {"a", "b"}
    made._clean_up(rank)
    assert sorted(store.list_keys()) == left
    assert not made._former
