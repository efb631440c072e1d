"""The connections of this process to a TCPStore: no request waits for an answer without end.

Torch bounds what waits for a key, and nothing else: a store whose process is stopped, or whose host
has lost power, answers no ``add`` or ``check`` and keeps who asks for ever. A timeout of the socket
makes torch raise there. The answer may come later: a connection that has missed one is of no use.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Callable, Collection
from contextlib import suppress

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed import DistNetworkError

_TIMEVAL = struct.Struct("@ll")


def answer_within(store: Store, seconds: float) -> None:
    """Has every request to the server of ``store`` fail that it has not answered for so long."""
    whole, rest = divmod(seconds, 1)
    value = _TIMEVAL.pack(int(whole), int(rest * 1e6))
    _done_to(store, lambda found: found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value))


def is_unanswered(error: BaseException) -> bool:
    """Whether an error of a store says that it has not answered in time."""
    return isinstance(error, DistNetworkError) and "Socket Timeout" in str(error)


def shut(store: Store) -> None:
    """Shuts the connections to the server of ``store`` down: all requests fail from now on."""
    _done_to(store, lambda found: found.shutdown(socket.SHUT_RDWR))


def _done_to(store: Store, do: Callable[[socket.socket], None]) -> None:
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    if not isinstance(store, TCPStore):
        return
    with suppress(OSError):
        told = socket.getaddrinfo(store.host, store.port, type=socket.SOCK_STREAM)
        hosts = {_plain(str(address[0])) for *_, address in told}
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # closed meanwhile, or not connected
                if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                    with socket.socket(fileno=os.dup(int(name))) as found:
                        if _is_of(found, hosts, store.port):
                            do(found)


def _is_of(found: socket.socket, hosts: Collection[str], port: int) -> bool:
    """Whether a socket is connected to a port of one of these hosts."""
    if found.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    there = found.getpeername()
    return bool(there[1] == port) and _plain(there[0]) in hosts


def _plain(host: str) -> str:
    return host.removeprefix("::ffff:")
