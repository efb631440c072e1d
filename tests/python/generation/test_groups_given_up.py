"""Groups whose other members never come: whoever asks for one waits no longer than it has to."""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from torch._C._distributed_c10d import HashStore, TCPStore
from torch.distributed import DistStoreError

from dynatrain import TransportError
from dynatrain._torch_private.groups import GroupKind, gloo_group
from dynatrain.generation import connections as rooms
from dynatrain.generation.connections import Connections
from dynatrain.generation.members import Member, Members
from dynatrain.generation.world_groups import WorldGroups
from dynatrain.generation.worlds import _OUT_OF_TORCH, _WAITED, _place_of

ALONE = timedelta(seconds=8)  #: so long members are waited for; what ends before has not


MEMBERS = (Member("one"), Member("two"))


def members(address):
    each = tuple(replace(each, address=address) for each in MEMBERS)
    return Members("a job", 0, each, HashStore(), connections=Connections(ALONE))


def comes(of, rank):
    """A member of the group comes, and waits for nobody."""
    store = of.store_of("a group")
    store.set(f"here/{rank}", "")
    store.add("here", 1)


def of_library(of, _):
    of.group("a group", ALONE)


def default_of_world(of, worlds):
    groups = WorldGroups(of, "a world", 0, ALONE)
    worlds.append(groups)
    groups.make_default(GroupKind("gloo"), 2)


def cut_while_made(make, of, cut, looked_at=None):
    """What ``make`` raises where ``cut`` is called once it waits.

    ``looked_at``: another connection to the store, where one serves one thread.
    """
    worlds, raised, store = [], [], looked_at or of.store

    def caught():
        try:
            make(of, worlds)
        except (TransportError, RuntimeError) as error:
            raised.append(error)

    thread = threading.Thread(target=caught)
    thread.start()
    while not store.num_keys() and thread.is_alive():
        threading.Event().wait(0.001)
    cut(of, worlds)
    thread.join(60)
    assert not thread.is_alive()
    return raised.pop()


# The training thread of a member stood in a recovery until the deadline, the next recoveries waited
# for it, and timed out with it: nobody trained for minutes behind a death at a bad moment.
@pytest.mark.parametrize("address", ["", "127.0.0.1"])
@pytest.mark.parametrize("make", [of_library, default_of_world])
def test_a_group_is_waited_for_until_its_generation_is_ended(make, address):
    error = cut_while_made(make, members(address), lambda of, _: of.connections.cut("no more"))

    assert isinstance(error, TransportError)
    assert "were ended: no more" in str(error)


def test_a_group_of_a_world_is_waited_for_until_that_is_ended():
    def cut(_, worlds):
        worlds[0].connections.cut("a member is lost")

    error = cut_while_made(default_of_world, members(""), cut)
    assert "were ended: a member is lost" in str(error)


def test_where_connections_are_cut_no_group_is_begun():
    of = members("")
    of.connections.cut("no more")
    with pytest.raises(TransportError, match="were ended: no more"):
        of.group("a group", ALONE)
    assert not of.store.num_keys()


# It went on to try the ports of members that had gone, which were other groups' by then.
def test_nobody_begins_with_gloo_before_all_are_there(monkeypatch):
    begun = []
    monkeypatch.setattr(rooms, "gloo_group", lambda *_: begun.append("one") or Found())
    of, threads = members(""), []

    def cut(_, __):
        threads.extend(each for each in threading.enumerate() if "makes a group" in each.name)
        of.connections.cut("no more")

    cut_while_made(of_library, of, cut)
    comes(of, 1)  # late
    threads[-1].join(60)
    assert not begun

    there = members("")
    comes(there, 1)
    assert isinstance(there.group("a group", ALONE), Found)
    assert begun == ["one"]


# It waited for the store to its deadline, and the end of the process for it: a member that was
# released stayed for as long, and its launcher killed it.
def test_a_thread_that_waits_for_others_ends_with_its_group():
    threads, store = [], TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    of = replace(members(""), store=TCPStore("127.0.0.1", store.port))

    def cut(_, __):
        threads.extend(each for each in threading.enumerate() if "makes a group" in each.name)
        of.connections.cut("no more")

    cut_while_made(of_library, of, cut, store)
    threads[-1].join(ALONE.total_seconds() / 2)
    assert not threads[-1].is_alive()
    late = replace(of, rank=1, store=store, connections=Connections(ALONE))
    with pytest.raises(DistStoreError, match="was given up before all of its members had come"):
        late.group("a group", ALONE)


def test_who_does_not_come_is_named():
    of = Members("a job", 1, MEMBERS * 2, HashStore(), connections=Connections(ALONE))
    comes(of, 3)
    with pytest.raises(DistStoreError, match="member 0 of the group's 4 did not come"):
        of.group("a group", timedelta(seconds=0.1))
    comes(of, 0)
    with pytest.raises(DistStoreError, match="member 2 of the group's 4 did not come"):
        of.group("a group", timedelta(seconds=0.1))


# One that came later would have met it there, and begun with Gloo alone.
def test_who_has_waited_in_vain_is_there_no_more():
    of = members("")
    with pytest.raises(DistStoreError, match="member 1 of the group's 2 did not come"):
        of.group("a group", timedelta(seconds=0.1))
    late = replace(of, rank=1)
    with pytest.raises(DistStoreError, match="member 0 of the group's 2 had come"):
        late.group("a group", ALONE)


class OutOfTime:
    """A store whose waits end in vain, behind something that happens meanwhile."""

    def __init__(self, store, meanwhile):
        self._store, self._meanwhile = store, meanwhile

    def __getattr__(self, name):
        return getattr(self._store, name)

    def wait(self, keys, timeout):
        self._meanwhile()
        raise DistStoreError("not within its time")


# The last one had gone on to Gloo, and waited there for one that had gone.
def test_who_leaves_as_the_last_one_comes_goes_on_with_it():
    store = HashStore()
    rooms._meet(OutOfTime(store, lambda: rooms._meet(store, 1, 2, ALONE)), 0, 2, ALONE)

    alone = HashStore()
    with pytest.raises(DistStoreError, match="not within its time"):
        rooms._meet(OutOfTime(alone, lambda: None), 0, 2, ALONE)
    with pytest.raises(DistStoreError, match="member 0 of the group's 2 had come"):
        rooms._meet(alone, 1, 2, ALONE)


# What each of them said and asked for grew with their number.
def test_a_member_of_a_large_group_sends_no_more_than_one_of_a_small_one():
    class Counted(OutOfTime):
        def __getattr__(self, name):
            asked.append(name)
            return super().__getattr__(name)

        def wait(self, keys, timeout):
            asked.append("wait")
            assert keys == ["outcome"]

    asked: list[str] = []
    store = HashStore()
    store.add("here", 1_000)
    store.set("outcome", "all here")
    rooms._meet(Counted(store, lambda: None), 7, 1_024, ALONE)
    assert asked == ["set", "add", "wait", "get"]


# The rank that had a reason of its own was told of as one that did not come.
def test_who_has_waited_for_others_is_no_cause():
    with pytest.raises(DistStoreError) as late:
        members("").group("a group", timedelta(seconds=0.1))
    assert _place_of(late.value) == _WAITED

    def gloo_fails(*_):
        raise RuntimeError("a connection was refused")

    code = gloo_fails.__code__.replace(co_filename=gloo_group.__code__.co_filename)
    of, gloo_fails.__code__ = Connections(ALONE), code
    with pytest.raises(RuntimeError) as of_gloo:
        of._apart(int, gloo_fails, int)
    assert _place_of(of_gloo.value) == _OUT_OF_TORCH


# Sockets and threads of the groups before it lived on until the collector came, which scripts turn
# off while they train.
def test_an_error_that_is_let_go_of_holds_nothing():
    held = []

    def fail(found):
        held.append(weakref.ref(found))
        raise RuntimeError("a member did not come")

    def make():
        found = Found()
        return Connections(ALONE)._apart(int, lambda: fail(found), int)

    gc.collect()
    gc.disable()
    try:
        with suppress(RuntimeError):
            make()
        assert held[0]() is None
    finally:
        gc.enable()


# It was installed, and each group of it that was wanted later could not be made.
def test_what_is_within_connections_that_were_cut_is_cut():
    outer = Connections(ALONE)
    inner = Connections(ALONE, outer)
    assert not inner.are_cut
    outer.cut("no more")
    assert inner.are_cut


class Found:
    """What is made."""


def test_what_is_made_apart_is_returned_or_raised_and_nobody_else_holds_it():
    connections = Connections(ALONE)

    def fail():
        raise RuntimeError("a member did not come")

    found = connections._apart(int, Found, int)
    held = weakref.ref(found)
    with pytest.raises(RuntimeError, match="did not come"):
        connections._apart(int, fail, int)
    del found
    assert held() is None


def test_what_comes_behind_the_end_is_dropped():
    connections, may_go, made, threads = Connections(ALONE), threading.Event(), [], []

    def late():
        found = Found()
        made.append(weakref.ref(found))
        threads.append(threading.current_thread())
        connections.cut("no more")
        may_go.wait(60)
        return found

    with pytest.raises(TransportError, match="no more"):
        connections._apart(int, late, int)
    may_go.set()
    threads[0].join(60)
    assert made[0]() is None


def test_without_a_thread_it_is_made_here(monkeypatch):
    def refused(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert isinstance(Connections(ALONE)._apart(int, Found, int), Found)
