"""A store whose process stops: whoever asks it hears so, and never a late answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from dynatrain import TransportError
from dynatrain.generation import rendezvous
from dynatrain.generation.rendezvous import Rendezvous

HOST = """
import sys
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
sys.stdin.read()
"""
TIMEOUT = timedelta(seconds=1)


@pytest.fixture
def host():
    command = [sys.executable, "-c", HOST]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.send_signal(signal.SIGCONT)
        process.kill()


@pytest.fixture(autouse=True)
def other_sockets():
    """What a process has beside: of no network, and not connected."""
    pair = socket.socketpair()
    with pair[0], pair[1], socket.socket():
        yield


@pytest.fixture
def alone(host, monkeypatch):
    """The only rank of a job, which has met itself once."""
    monkeypatch.setattr(rendezvous, "_LEAST_PATIENCE_SECONDS", 1.0)
    store = TCPStore("127.0.0.1", int(host.stdout.readline()), is_master=False)
    found = Rendezvous(store, 0, 1, TIMEOUT)
    assert found.meet(b"here").payloads == [b"here"]
    return found


def stop(process):
    os.kill(process.pid, signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)


# Only what waits for a key has a deadline in torch: this would wait until the process goes on.
def test_a_store_that_stops_is_told_of(host, alone):
    stop(host)
    began = time.monotonic()
    with pytest.raises(TransportError, match="store does not answer"):
        alone.meet(b"again")
    assert alone.failed() is None
    assert time.monotonic() - began < 10


# The answers that were missed come then: taken for others, they would decide meetings.
def test_a_store_that_goes_on_is_not_asked_again(host, alone):
    stop(host)
    with pytest.raises(TransportError):
        alone.meet(b"again")
    host.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    with pytest.raises(TransportError, match="store does not answer"):
        alone.meet(b"again")


# Waiting for others is no silence, however long it takes.
def test_a_store_that_answers_late_peers_is_kept(host, monkeypatch):
    monkeypatch.setattr(rendezvous, "_LEAST_PATIENCE_SECONDS", 0.2)
    store = TCPStore("127.0.0.1", int(host.stdout.readline()), is_master=False)
    waits = Rendezvous(store, 0, 2, TIMEOUT)
    with pytest.raises(TransportError, match="did not arrive"):
        waits.meet(b"here")
    assert store.add("still", 1) == 1
