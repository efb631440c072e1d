"""Connections of groups whose other side is not reached any more."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from datetime import timedelta

from torch._C._distributed_c10d import HashStore

from dynatrain._torch_private.groups import gloo_group
from dynatrain.generation.connections import Connections

PATIENCE = timedelta(seconds=16)
_OF_INET = (socket.AF_INET, socket.AF_INET6)


def patience_of_connections():
    """The kernel's, in ms, with the idle time in seconds, of each connection of this process."""
    found = []
    for each in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(each))) as one:
            if one.family in _OF_INET and one.getpeername():
                asks = one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                idle = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                most = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                found.append((asks, idle, most))
    return found


# A link that is down closes nothing: without it a member waits there for a quarter of an hour, or
# for ever where it has nothing to say.
def test_the_kernel_gives_up_connections_of_noted_groups():
    store, groups = HashStore(), {}
    connections = Connections(PATIENCE)
    before = patience_of_connections()

    def make(rank):
        groups[rank] = gloo_group(store, rank, 2, timedelta(seconds=20), "127.0.0.1")

    threads = [threading.Thread(target=make, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    connections.note(store, "", (0, 2))

    assert (1, 8, 16_000) not in before  # other tests may have connections, none of this patience
    assert (1, 8, 16_000) in patience_of_connections()
