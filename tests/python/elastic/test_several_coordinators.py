"""A member that knows several addresses: which one it speaks to, and when it leaves it."""

from __future__ import annotations

import fcntl
import resource
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dynatrain.elastic.addresses import addresses_of, text_of
from dynatrain.elastic.line import Line
from dynatrain.elastic.seal import Seal, greeting, new_nonce, nonce_of

SECRET, WAIT_S = b"of this job, and of no other one", 20.0


class Coordinator(threading.Thread):
    """Greets whoever comes, says one line, and nothing more.

    Attributes:
        num_left: connections that the other side has ended.
    """

    def __init__(self, host):
        super().__init__(daemon=True)
        self.listening = socket.create_server((host, 0))
        self.address = self.listening.getsockname()
        self.num_left = 0
        self.start()

    def run(self):
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self.attend, args=(connection,), daemon=True).start()

    def attend(self, connection):
        own = new_nonce()
        with connection, connection.makefile("rb") as heard:
            connection.sendall(greeting(own) + b"\n")
            nonces = own, nonce_of(heard.readline())
            connection.sendall(Seal(SECRET, nonces, is_coordinator=True).close("a word"))
            heard.read()
        self.num_left += 1

    def end(self):
        self.listening.close()


@pytest.fixture
def coordinators():
    made = [Coordinator("127.0.0.1"), Coordinator("127.0.0.2")]
    yield made
    for each in made:
        each.end()


def heard_from(line, host):
    """Whether a word of the coordinator at ``host`` comes in time."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        if line.connect() and line.hear(0.05) and line.host == host:
            return True
    return False


def nobody(host):
    """An address that refuses."""
    with socket.create_server((host, 0)) as made:
        return made.getsockname()


# A process of a large job has more than a thousand connections, and its line may be any of them.
def test_a_line_is_heard_over_a_descriptor_of_any_number(coordinators, monkeypatch):
    made = socket.create_connection

    def far_up(*args):
        with made(*args) as low:
            return socket.socket(fileno=fcntl.fcntl(low, fcntl.F_DUPFD, 1024))

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip(f"this process may have {hard} descriptors")
    monkeypatch.setattr(socket, "create_connection", far_up)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    try:
        assert heard_from(Line([coordinators[0].address], SECRET), "127.0.0.1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Who sends byte after byte and never an end of line would hold the thread for as long as it likes.
def test_a_line_that_trickles_is_waited_for_no_longer_than_another():
    listening = socket.create_server(("127.0.0.4", 0))
    ended = threading.Event()

    def trickle():
        connection, _ = listening.accept()
        with connection, listening:
            connection.sendall(greeting(new_nonce()) + b"\n")
            while not ended.wait(0.01):
                connection.sendall(b"x")

    thread = threading.Thread(target=trickle, daemon=True)
    thread.start()
    line = Line([listening.getsockname()], SECRET)
    assert line.connect()
    heard = ThreadPoolExecutor(1).submit(line.hear, 0.2)

    assert heard.result(WAIT_S) is None
    ended.set()
    thread.join(WAIT_S)


# A standby refuses until it is in office: whoever waits there waits for ever.
def test_the_next_address_is_tried_where_nobody_listens(coordinators):
    line = Line([nobody("127.0.0.3"), coordinators[1].address], SECRET)

    assert heard_from(line, "127.0.0.2")


# The kernel takes connections for a process that is stopped; they are no word of a coordinator.
def test_the_next_address_is_tried_where_nobody_greets(coordinators):
    with socket.create_server(("127.0.0.3", 0)) as stopped:
        line = Line([stopped.getsockname(), coordinators[1].address], SECRET)

        assert heard_from(line, "127.0.0.2")


# The one second for all jobs was longer than short ones wait for a member.
def test_an_address_is_tried_for_as_long_as_the_job_allows(monkeypatch):
    tried = []

    def connect(address, seconds):
        tried.append(seconds)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    assert not Line([("127.0.0.1", 1)], SECRET, connect_s=0.25).connect()

    assert tried == [0.25]


# A host that is lost ends no connection.
def test_a_silent_coordinator_is_left_for_one_that_is_there(coordinators):
    line = Line([each.address for each in coordinators], SECRET, silent_s=0.3)
    assert heard_from(line, "127.0.0.1")

    assert heard_from(line, "127.0.0.2")


# It may be slow, and counts whoever hangs up as lost.
def test_a_silent_coordinator_is_kept_where_no_other_is_there(coordinators):
    line = Line([coordinators[0].address, nobody("127.0.0.3")], SECRET, silent_s=0.1)
    assert heard_from(line, "127.0.0.1")
    for _ in range(20):
        assert line.hear(0.05) is None

    assert line.connected
    assert coordinators[0].num_left == 0


def test_addresses_are_read_as_they_are_written():
    text = "a:1,[::1]:2"

    assert ",".join(map(text_of, addresses_of(text))) == text


@pytest.mark.parametrize("text", ["", "a", "a:", ":7", "a:1,", "a:1,b", "a:65536", "a:x"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="is not host:port"):
        addresses_of(text)
