"""A rank that sends to one that stops reading and dies hears of it at once, on every way there is.

Gloo ends a send that stands in the queue of a connection at the deadline alone, whatever becomes of
the connection: each of these ranks waited for all of it.
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

#: More than the kernel takes of a connection of which nobody reads.
_BYTES = 64 << 20


class Stopping:
    """A group whose process stops as soon as it has asked for a large message."""

    def __init__(self, group):
        self._group = group

    def __getattr__(self, name):
        return getattr(self._group, name)

    def recv(self, buffers, position, tag):
        work = self._group.recv(buffers, position, tag)
        if buffers[0].numel() > _BYTES // 2:
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


def exchange(rank):
    tree = Tree(members_of(rank), timedelta(seconds=LATE_S), "a test")
    messages = tree._levels[0]._messages
    if rank == 0:
        messages._group = Stopping(messages._group)
    tree.exchange(bytes(_BYTES if rank else 1), lambda parts: b"")


def share(rank):
    tree = Tree(members_of(rank), timedelta(seconds=LATE_S), "a test")
    messages = tree._levels[0]._messages
    if rank == 0:
        messages._group = Stopping(messages._group)
    tree.share(torch.zeros(_BYTES, dtype=torch.uint8), {1: slice(0, _BYTES)})


def swap(rank):
    channel = Channel(members_of(rank), timedelta(seconds=LATE_S))
    (messages,) = channel._messages.values()
    if rank == 0:
        messages._group = Stopping(messages._group)
    state = CopiedState(0, "dp=2", 0, "", 0, b"", {}, None, {}, b"", ())
    own = torch.zeros(_BYTES if rank else 1, dtype=torch.uint8)
    channel.swap(
        Brought(state, 0, own.numel()),
        own,
        lambda other: torch.zeros(other.size_bytes, dtype=torch.uint8),
    )


def send_to_the_dead(rank, world_size, way):
    killer = killed_soon() if rank else None
    try:
        way(rank)
    except RuntimeError as error:
        return str(error)
    finally:
        if killer is not None:
            killer.join()
    return None


@pytest.mark.parametrize("way", [exchange, share, swap])
def test_a_send_to_a_rank_that_dies_ends_at_once(pool, way):
    results = pool.run(send_to_the_dead, way, world_size=2, may_die=[0])

    assert "onnection" in results[1]


def send_over_the_transport(rank, world_size, is_killed):
    transport = transport_of(rank, world_size)
    buffer = np.zeros(_BYTES, dtype=np.uint8)
    if rank == 0:
        transport.submit_receives([message(1, 1, buffer)], LATE_S)
        stop()
    pid = stopped()
    token = transport.submit_sends([message(0, 1, buffer)], LATE_S)
    time.sleep(0.5)
    if is_killed:
        os.kill(pid, signal.SIGKILL)
    else:
        transport.abort("the others were told to")
    error = error_of(token)
    if not is_killed:
        os.kill(pid, signal.SIGKILL)
    return error


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_message_to_a_rank_that_stopped_ends_with_it_and_with_the_transport(pool, is_killed):
    results = pool.run(send_over_the_transport, is_killed, world_size=2, may_die=[0])

    peer, text = results[1]
    assert peer == (0 if is_killed else -1)
    assert is_killed or "the others were told to" in text
