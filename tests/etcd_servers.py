"""A real cluster of etcd on this machine, for tests; skips them where there is none."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import suppress

import pytest


def free_ports(number):
    """Ports that nobody has, held together until all are found."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


class Cluster:
    """Members of one etcd, each a process with a folder of its own.

    Attributes:
        addresses: of the members, for clients.
    """

    def __init__(self, folder, num_members=1, tls=(), flags=()):
        if shutil.which("etcd") is None:
            pytest.skip("etcd is not installed (Debian: etcd-server)")
        pytest.importorskip("urllib3", reason="urllib3 is not installed (dynatrain[etcd])")
        self.folder = folder
        self._tls = tls
        self._flags = [*tls, *flags]
        ports = free_ports(2 * num_members)
        self._scheme = "https" if tls else "http"
        self.addresses = [f"127.0.0.1:{port}" for port in ports[:num_members]]
        self._peers = [f"http://127.0.0.1:{port}" for port in ports[num_members:]]
        self.processes = [self.started(number) for number in range(num_members)]
        self._wait()

    def started(self, number):
        """Starts a member, or starts it again with what it has on disk."""
        client, peer = f"{self._scheme}://{self.addresses[number]}", self._peers[number]
        peers = ",".join(f"m{other}={url}" for other, url in enumerate(self._peers))
        words = {
            "name": f"m{number}",
            "data-dir": self.folder / f"etcd-{number}",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": peers,
            "heartbeat-interval": 50,
            "election-timeout": 500,
        }
        command = ["etcd", *(f"--{name}={value}" for name, value in words.items()), *self._flags]
        with (self.folder / f"etcd-{number}.log").open("a") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def ledger(self, job="job"):
        """As `--ledger` names it; the member that leads is the first to be asked."""
        leader = 0 if self._tls else self.leader()
        others = [each for each in self.addresses if each != self.addresses[leader]]
        return f"etcd://{','.join([self.addresses[leader], *others])}/{job}"

    def asked(self, number, what, question, token=""):
        """What a member answers."""
        url = f"http://{self.addresses[number]}/v3/{what}"
        headers = {"Authorization": token} if token else {}
        request = urllib.request.Request(url, json.dumps(question).encode(), headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def know_users(self, user, password):
        """From now on requests need a user; this one may write what jobs keep."""

        def ask(what, **question):
            self.asked(0, f"auth/{what}", question)

        begin, end = (base64.b64encode(each).decode() for each in (b"dynatrain/", b"dynatrain0"))
        ask("user/add", name="root", password="root")
        ask("role/add", name="root")
        ask("user/grant", user="root", role="root")
        ask("role/add", name="job")
        ask("role/grant", name="job", perm={"permType": 2, "key": begin, "range_end": end})
        ask("user/add", name=user, password=password)
        ask("user/grant", user=user, role="job")
        ask("enable")

    def add_user(self, name):
        """Changes the users that etcd knows, as its administrator."""
        who = {"name": "root", "password": "root"}
        token = self.asked(0, "auth/authenticate", who)["token"]
        self.asked(0, "auth/user/add", {"name": name, "password": name}, token)

    def leader(self):
        """The number of the member that leads."""
        told = [self.asked(each, "maintenance/status", {}) for each in range(len(self.addresses))]
        return [each["header"]["member_id"] for each in told].index(told[0]["leader"])

    def kill(self, number):
        """Ends a member as the loss of its host does."""
        self.processes[number].kill()
        self.processes[number].wait()

    def end(self):
        """Ends all of them."""
        for each in self.processes:
            each.kill()
            each.wait()

    def _wait(self, seconds=30):
        """Waits until all members hear clients and have a leader."""
        until = time.monotonic() + seconds
        for number, address in enumerate(self.addresses):
            while not self._is_ready(address):
                assert time.monotonic() < until, (self.folder / f"etcd-{number}.log").read_text()
                time.sleep(0.1)

    def _is_ready(self, address):
        host, _, port = address.partition(":")
        with suppress(OSError):
            if self._tls:  # only that it listens: who asks for more needs certificates
                socket.create_connection((host, int(port)), 1).close()
                return True
            with urllib.request.urlopen(f"http://{address}/health", timeout=1) as answer:
                return json.load(answer)["health"] == "true"
        return False
