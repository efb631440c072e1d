"""A rank that sends to one that dies, or receives of it, hears of it at once, on every way.

What Gloo has begun to send or to receive ends at the deadline alone, whatever becomes of the
connection: each of these ranks waited for all of it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from c10d_messages import LATE_S, error_of, message, transport_of
from dynatrain.elastic.copies import CopiedState
from dynatrain.elastic.partners import Brought, Channel
from dynatrain.generation.members import Members
from dynatrain.generation.tree import Tree

#: More than the kernel takes of a connection of which nobody reads, and on its way for a while.
_BYTES, _LARGE = 256 << 20, 32 << 20


class Stopping:
    """A group whose process stops as soon as it has asked for a large message, or sends one."""

    def __init__(self, group, does):
        self._group = group
        self._does = does

    def __getattr__(self, name):
        return getattr(self._group, name)

    def recv(self, *message):
        return self._then_stopped("recv", message)

    def send(self, *message):
        return self._then_stopped("send", message)

    def _then_stopped(self, does, message):
        work = getattr(self._group, does)(*message)
        if does == self._does and message[0][0].numel() > _LARGE:
            if does == "send":
                time.sleep(0.05)  # until some of it has come
            stop()
        return work


def stop():
    dist.group.WORLD.get_group_store().set("stops", str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)


def stopped():
    """The process that has stopped."""
    store = dist.group.WORLD.get_group_store()
    while not store.check(["stops"]):  # a wait would keep the store from the other threads
        time.sleep(0.01)
    pid = int(store.get("stops"))
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)
    return pid


def killed_soon():
    """Kills the process that stops, once what is sent to it fills the connection."""

    def kill():
        pid = stopped()
        time.sleep(0.5)
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    return killer


def members_of(rank):
    store = dist.distributed_c10d._get_default_store()
    return Members.of_ranks("a test", rank, 2, store)


def tree_of(rank, dies, does):
    tree = Tree(members_of(rank), timedelta(seconds=LATE_S), "a test")
    messages = tree._levels[0]._messages
    if rank == dies:
        messages._group = Stopping(messages._group, does)
    return tree


# Rank 1 sends the large part, and rank 0 receives it; the other way round for an answer.
def exchange(rank, dies, does):
    tree = tree_of(rank, dies, does)
    tree.exchange(bytes(_BYTES if rank else 1), lambda parts: b"")


def answer(rank, dies, does):
    tree = tree_of(rank, dies, does)
    tree.exchange(b"", lambda parts: bytes(_BYTES))


def share(rank, dies, does):
    tree = tree_of(rank, dies, does)
    tree.share(torch.zeros(_BYTES, dtype=torch.uint8), {1: slice(0, _BYTES)})


def swap(rank, dies, does):
    channel = Channel(members_of(rank), timedelta(seconds=LATE_S))
    (messages,) = channel._messages.values()
    if rank == dies:
        messages._group = Stopping(messages._group, does)
    state = CopiedState(0, "dp=2", 0, "", 0, b"", {}, None, {}, b"", ())
    own = torch.zeros(_BYTES if rank else 1, dtype=torch.uint8)
    channel.swap(
        Brought(state, 0, own.numel()),
        own,
        lambda other: torch.zeros(other.size_bytes, dtype=torch.uint8),
    )


def meet_a_death(rank, world_size, way, dies, does):
    killer = killed_soon() if rank != dies else None
    try:
        way(rank, dies, does)
    except RuntimeError as error:
        return str(error)
    finally:
        if killer is not None:
            killer.join()
    return None


@pytest.mark.parametrize(
    ("way", "sender"),
    [(exchange, 1), (answer, 0), (share, 1), (swap, 1)],
    ids=lambda given: getattr(given, "__name__", str(given)),
)
@pytest.mark.parametrize("does", ["recv", "send"])
def test_who_talks_to_a_rank_that_dies_hears_of_it_at_once(pool, way, sender, does):
    dies = sender if does == "send" else 1 - sender
    results = pool.run(meet_a_death, way, dies, does, world_size=2, may_die=[dies])

    assert "onnection" in results[1 - dies]


def talk_over_the_transport(rank, world_size, dies, is_killed):
    transport = transport_of(rank, world_size)
    buffer = np.zeros(_BYTES, dtype=np.uint8)
    submit = transport.submit_sends if rank == 1 else transport.submit_receives
    if rank == dies:
        submit([message(1 - rank, 1, buffer)], LATE_S)
        time.sleep(0.05 * rank)  # until some of what is sent has come
        stop()
    token = submit([message(1 - rank, 1, buffer)], LATE_S)
    pid = stopped()
    time.sleep(0.5)
    if is_killed:
        os.kill(pid, signal.SIGKILL)
    else:
        transport.abort("the others were told to")
    error = error_of(token)
    if not is_killed:
        os.kill(pid, signal.SIGKILL)
    return error


@pytest.mark.parametrize("dies", [0, 1])
@pytest.mark.parametrize("is_killed", [True, False])
def test_a_message_ends_with_the_other_rank_and_with_the_transport(pool, dies, is_killed):
    arguments = dies, is_killed
    results = pool.run(talk_over_the_transport, *arguments, world_size=2, may_die=[dies])

    peer, text = results[1 - dies]
    assert peer == (dies if is_killed else -1)
    assert is_killed or "the others were told to" in text
