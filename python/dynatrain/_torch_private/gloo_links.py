"""The connections of a group of Gloo, found among those of the process: to be counted, or cut.

Nothing of torch ends an operation of Gloo that hangs, but for its deadline: ``abort()`` of such a
group does nothing, and destroying it waits. A connection that is shut down ends all that waits for
it, on both sides and at once. Each member of a group listens at a port of its own, and leaves the
address in the group's store; every connection of the group has one of these at one end.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch._C._distributed_c10d import Store

#: Host and port.
_Address = tuple[str, int]
_SIZE, _FAMILY, _PORT = struct.Struct("=Q"), struct.Struct("=H"), struct.Struct("!H")
#: What the kernel takes for idle times is less than this.
_MOST_S = 32_000
_AT_PORT, _AT_IPV4, _AT_IPV6 = 2, 4, 8


@dataclass(frozen=True)
class Links:
    """Where the members of one group listen.

    Attributes:
        own: this member's address.
        others: those of the other members.
    """

    own: _Address
    others: frozenset[_Address]


def links_of(store: Store, prefix: str, rank: int, num_ranks: int) -> Links | None:
    """Where the members of a group listen that was made in ``store``; None where it is not there.

    One message to the store. Torch makes a group ``prefix`` of which the keys are ``0/<rank>``.
    """
    if num_ranks < 2:
        return None
    keys = [f"{prefix}0/{each}" for each in range(num_ranks)]
    with suppress(RuntimeError, ValueError, struct.error):
        if not store.check(keys):  # another version of Gloo: nothing can be cut
            return None
        found = [_address(bytes(each)) for each in store.multi_get(keys)]
        return Links(found[rank], frozenset(found) - {found[rank]})
    return None


def num_connected(groups: Iterable[Links]) -> int:
    """The connections of groups that stand; Gloo closes one whose other side has ended, at once."""
    return _done_to(groups, lambda _: None)


def cut(groups: Iterable[Links]) -> None:
    """Shuts the connections of groups down, from any thread."""
    _done_to(groups, lambda found: found.shutdown(socket.SHUT_RDWR))


def give_up_after(groups: Iterable[Links], seconds: float) -> None:
    """Has the kernel end a connection whose other side has not answered for so long.

    A link that is down closes nothing: who waits there would wait for ever. Hosts that are there
    answer by their kernel, however long their process says nothing.
    """
    seconds = min(seconds, _MOST_S)

    def watch(found: socket.socket) -> None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, max(1, int(seconds / 2))),
            (socket.TCP_KEEPINTVL, max(1, int(seconds / 8))),
            (socket.TCP_KEEPCNT, 4),
            (socket.TCP_USER_TIMEOUT, int(seconds * 1000)),
        ):
            found.setsockopt(socket.IPPROTO_TCP, option, value)

    _done_to(groups, watch)


def _done_to(groups: Iterable[Links], do: Callable[[socket.socket], None]) -> int:
    """Does something to the connections of groups; returns to how many."""
    own: set[_Address] = set()
    others: set[_Address] = set()
    for links in groups:
        own.add(links.own)
        others |= links.others
    return sum(_done_to_one(int(each), own, others, do) for each in os.listdir("/proc/self/fd"))


def _done_to_one(
    descriptor: int,
    own: set[_Address],
    others: set[_Address],
    do: Callable[[socket.socket], None],
) -> bool:
    with suppress(OSError):
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        with socket.socket(fileno=os.dup(descriptor)) as found:
            if found.family not in (socket.AF_INET, socket.AF_INET6):
                return False
            here, there = found.getsockname(), found.getpeername()
            if _plain(here) in own or _plain(there) in others:
                do(found)
                return True
    return False


def _plain(address: Sequence[object]) -> _Address:
    host, port = str(address[0]), address[1]
    assert isinstance(port, int)
    return host.removeprefix("::ffff:"), port


def _address(told: bytes) -> _Address:
    """The address in what a member left: its host's name, then a ``sockaddr``, each sized."""
    (size_of_name,) = _SIZE.unpack_from(told)
    begin = 2 * _SIZE.size + size_of_name
    (family,) = _FAMILY.unpack_from(told, begin)
    (port,) = _PORT.unpack_from(told, begin + _AT_PORT)
    at, size = (_AT_IPV4, 4) if family == socket.AF_INET else (_AT_IPV6, 16)
    host = socket.inet_ntop(family, told[begin + at : begin + at + size])
    return host.removeprefix("::ffff:"), port
