"""Rounds of snapshots that cannot go on begin anew, as soon as all can."""

from __future__ import annotations

import pytest

from dynatrain import Layout, TransportError
from dynatrain.elastic import boundaries
from dynatrain.elastic.partners import Channel
from dynatrain.elastic.rounds import Begins
from ranks_in_threads import run_ranks
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
        return [text.split()[1] for _, text in trains.told[-2:]]

    found = run_ranks(outside, work)
    assert found[0] == found[1] == found[2]  # versions


# It had everything of the round, and has not heard that the others had as well.
def test_what_has_become_whole_for_one_is_whole_for_all(monkeypatch, impatient):
    failing_once(monkeypatch, (Channel, "agree"), 1, 2)  # the first is at the beginning
    outside = Job(2)

    def work(rank):
        trains = Trains(outside, rank, layout="dp=2")
        trains.until_whole(1)
        trains.snapshots.halt()
        return trains.snapshots._slots.of(trains.snapshots.versions[-1]).version, len(trains.epochs)

    (first, _), (second, _) = run_ranks(outside, work)
    assert first == second


def test_without_a_store_rounds_wait_for_one(impatient):
    outside = Job(2)
    away = [outside.together, outside.together]

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
