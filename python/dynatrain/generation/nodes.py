"""Which ranks share a node: a needer is served by its own node where that holds the cell."""

from __future__ import annotations

import socket
from collections.abc import Hashable, Sequence
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NETWORK = Path("/proc/self/ns/net")
_GROUPS, _OWN_GROUPS = Path("/proc/self/ns/cgroup"), Path("/proc/self/cgroup")


def node_name() -> str:
    """The same for all processes of one machine, whichever containers they are in."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # no Linux, or a sandbox without /proc
        return socket.gethostname()


def network_space() -> str:
    """The same for processes of one machine that reach each other's local sockets."""
    try:
        return str(_NETWORK.readlink())
    except OSError:  # as above: taken for one
        return ""


def control_group() -> str:
    """The same for processes of one machine whose memory one control group counts."""
    try:
        return f"{_GROUPS.readlink()} {_OWN_GROUPS.read_text()}"
    except OSError:  # as above: taken for one
        return ""


def host_name() -> str:
    """What people call the machine, or the container, of this process."""
    return socket.gethostname() or "a host without a name"


def numbered(names: Sequence[Hashable]) -> list[int]:
    """The node of each rank as a number, in the order in which nodes first occur."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]
