"""Attempts at one world that overlap: a thread may end an attempt after the next one has begun."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore

from dynatrain import Layout, TransportError
from dynatrain.generation import worlds as rooms
from dynatrain.generation.members import Members
from dynatrain.generation.seats import Seats
from dynatrain.generation.worlds import Worlds

MEMBERS = Members.of_ranks("a session", 0, 1, HashStore())
SEATS = Seats.first_of(MEMBERS, Layout(dp=1))


class Groups:
    """The groups of one attempt."""

    made: list[Groups]  #: in this test

    def __init__(self, members, name, rank, timeout, numbers):
        self.rank = rank
        self.default = self.connections = None
        self.ended = False
        self.made.append(self)

    @contextmanager
    def all_within(self, deadline):
        yield

    def end(self):
        self.ended = True


class Place:
    """A world, known by its groups."""

    def __init__(self, groups):
        self.groups = groups

    def at_epoch(self, epoch):
        return self


@pytest.fixture
def worlds(monkeypatch):
    """Worlds of fakes, and by which engine they are asked for."""
    monkeypatch.setattr(Groups, "made", [], raising=False)
    monkeypatch.setattr(rooms, "WorldGroups", Groups)
    monkeypatch.setattr(rooms, "make_groups_ahead", lambda layout, groups: None)
    monkeypatch.setattr(Worlds, "_world", lambda self, layout, groups, hook: Place(groups))
    return Worlds(engine(), torch.device("cpu"), None)


def engine(meanwhile=lambda: None):
    """One over which all agree; ``meanwhile`` happens before this rank hears of it."""

    def agree(phase, error, value, combine):
        meanwhile()
        return combine([value])

    return SimpleNamespace(
        options=SimpleNamespace(timeout=timedelta(seconds=20)),
        generation=SimpleNamespace(members=MEMBERS, give_up_keys=lambda store, purpose: None),
        control=SimpleNamespace(agree=agree),
        at_boundary=lambda work: work(),
    )


def attempt(worlds, name, kept=False):
    return worlds.at(SEATS, 1, name, kept=kept)


# The next attempt trained over groups that were ended under it.
def test_an_attempt_that_fails_late_leaves_the_groups_of_the_next_one(worlds):
    made = []

    def fails_late():
        made.append(attempt(worlds, "next"))
        raise TransportError("a rank is lost")

    with pytest.raises(TransportError, match="a rank is lost"):
        attempt(worlds.over(engine(fails_late)), "given up")

    assert not made[0].groups.ended
    assert attempt(worlds, "", kept=True) is made[0]


# What it made would stand for the next one's: on this rank alone, and over other groups.
def test_an_attempt_that_ends_well_too_late_does_not_stand_in_for_the_next_one(worlds):
    made = []
    late = worlds.over(engine(lambda: made.append(attempt(worlds, "next"))))

    with pytest.raises(TransportError, match="made too late"):
        attempt(late, "given up")

    assert Groups.made[0].ended
    assert attempt(worlds, "", kept=True) is made[0]
    assert not made[0].groups.ended


# Threads and sockets would pile up with every attempt that fails.
def test_an_attempt_that_fails_ends_its_own_groups_and_leaves_nothing(worlds):
    def fails():
        raise TransportError("a rank is lost")

    with pytest.raises(TransportError):
        attempt(worlds.over(engine(fails)), "given up")

    assert [groups.ended for groups in Groups.made] == [True]
    assert worlds.kept == ()


# It stayed the place of every later attempt, and no group could be made in it any more.
def test_a_place_whose_connections_were_ended_is_made_anew(worlds):
    first = attempt(worlds, "first")
    first.groups.connections = SimpleNamespace(are_cut=True)

    assert worlds.kept == ()
    with pytest.raises(TransportError, match="call again on all ranks"):
        attempt(worlds, "", kept=True)
    assert attempt(worlds, "next") is not first
    assert first.groups.ended


# A thread prepared ahead while the training thread forgot what had ended: it died of a KeyError.
def test_a_place_that_another_thread_has_let_go_of_is_told(worlds):
    attempt(worlds, "first")
    worlds.end()

    with pytest.raises(TransportError, match="let go of its place in the world of dp=1"):
        attempt(worlds, "", kept=True)
    assert worlds.kept == ()


# This rank was taken for one that idles there.
def test_a_place_that_is_being_made_anew_is_not_taken_for_the_kept_one(worlds):
    errors = []

    def meanwhile():
        with pytest.raises(TransportError, match="another attempt makes it anew") as error:
            attempt(worlds, "", kept=True)
        errors.append(error)

    made = attempt(worlds.over(engine(meanwhile)), "anew")

    assert errors
    assert attempt(worlds, "", kept=True) is made
