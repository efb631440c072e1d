"""Networks of this machine's own, with a link between them that a test cuts."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

_CLONE_NEWNET = 0x40000000


def ip(*words):
    found = subprocess.run(
        ["ip", *map(str, words)], capture_output=True, text=True, timeout=20, check=False
    )
    if found.returncode:
        raise OSError(f"ip {' '.join(map(str, words))}: {found.stderr.strip()}")


class Networks:
    """Two or more network namespaces, each with one address, joined by a bridge in another one.

    Attributes:
        addresses: of each of them.

    Raises:
        OSError: this process may not make them (it takes root), or there is no command ``ip``.
    """

    def __init__(self, *names):
        self._name = f"dt{os.getpid()}"
        self._made = []
        self.addresses = {name: f"10.213.7.{1 + at}" for at, name in enumerate(names)}
        try:
            self._add("hub")
            ip("-n", self._of("hub"), "link", "add", "bridge", "type", "bridge")
            ip("-n", self._of("hub"), "link", "set", "bridge", "up")
            for name in names:
                self._join(name)
        except OSError:
            self.remove()
            raise

    def _of(self, name):
        return f"{self._name}-{name}"

    def _add(self, name):
        ip("netns", "add", self._of(name))
        self._made.append(self._of(name))
        ip("-n", self._of(name), "link", "set", "lo", "up")

    def _join(self, name):
        self._add(name)
        ends = ["link", "add", "wire", "type", "veth", "peer", "name", name]
        ip("-n", self._of(name), *ends, "netns", self._of("hub"))
        ip("-n", self._of(name), "address", "add", f"{self.addresses[name]}/24", "dev", "wire")
        ip("-n", self._of(name), "link", "set", "wire", "up")
        ip("-n", self._of("hub"), "link", "set", name, "master", "bridge", "up")

    def within(self, name):
        """What stands before a command that is to run in a network."""
        return ("ip", "netns", "exec", self._of(name))

    def place(self, name):
        """What :func:`enter` takes to move a process there."""
        return str(Path("/run/netns", self._of(name)))

    def cut(self, name):
        """Nothing passes between a network and the others: packets vanish without a word."""
        ip("-n", self._of("hub"), "link", "set", name, "down")

    def mend(self, name):
        """Packets pass again."""
        ip("-n", self._of("hub"), "link", "set", name, "up")

    def part(self, *names):
        """These do not reach each other any more; each still reaches whoever else there is."""
        self._blackholes("add", names)

    def join(self, *names):
        """They reach each other again."""
        self._blackholes("delete", names)

    def _blackholes(self, what, names):
        for name in names:
            for other in names:
                if other != name:
                    route = ["blackhole", f"{self.addresses[other]}/32"]
                    ip("-n", self._of(name), "route", what, *route)

    def remove(self):
        while self._made:
            ip("netns", "delete", self._made.pop())


def enter(place):
    """Moves the calling thread, and those that it starts, to a network; Gloo's groups, too.

    To be called by a process that has opened no socket yet.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(place).open() as space:
        if libc.setns(space.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network {place}")
    os.environ["GLOO_SOCKET_IFNAME"] = "wire"
