"""What answers at the coordinator's address and is none: another job's, another program, nobody."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest

from dynatrain import LayoutError, TransportError
from dynatrain.elastic.line import Line
from dynatrain.elastic.part import Part
from dynatrain.elastic.seal import MEMBER, Seal, greeting, new_nonce, nonce_of

SECRET, WAIT_S = b"of this job, and of no other one", 20.0


class Answering(threading.Thread):
    """Listens, and has ``answer`` say what it does to each connection.

    Args:
        answer: called with the socket.
        host: a number tells addresses of this machine apart.
    """

    def __init__(self, answer, host="127.0.0.1"):
        super().__init__(daemon=True)
        self.answer = answer
        self.listening = socket.create_server((host, 0))
        self.address = self.listening.getsockname()
        self.start()

    def run(self):
        with suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                with connection, suppress(OSError):
                    self.answer(connection)


def coordinates(secret, line="a word"):
    """Greets and says a line with the code of a secret."""

    def answer(connection):
        own = new_nonce()
        with connection.makefile("rb") as heard:
            connection.sendall(greeting(own) + b"\n")
            nonces = own, nonce_of(heard.readline())
            connection.sendall(Seal(secret, nonces, is_coordinator=True).close(line))
            heard.read()

    return answer


def serves_pages(connection):
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    connection.recv(1 << 10)


def hangs_up_behind_its_greeting(connection):
    connection.sendall(greeting(new_nonce()) + b"\n")
    connection.recv(1 << 10)


STRANGERS = {
    "another program": serves_pages,
    "another secret": coordinates(b"of another job, and not of this one"),
    "no word": hangs_up_behind_its_greeting,
}


def asked_often(line):
    """What a member hears that asks again and again."""
    return [line.hear(0.3) for _ in range(6) if line.connect()]


# A coordinator that was started with another secret, or a program that took its port while it was
# away, ended every member of a healthy job at once.
@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_is_nobody_to_who_knows_the_coordinator(stranger, caplog):
    there = Answering(STRANGERS[stranger])
    line = Line([there.address], SECRET)
    line.trust()
    heard = asked_often(line)

    assert not any(heard)
    said = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(said) == 1
    there.answer = coordinates(SECRET)
    assert "a word" in asked_often(line)


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_ends_who_knows_no_coordinator(stranger):
    line = Line([Answering(STRANGERS[stranger]).address], SECRET)
    with pytest.raises(TransportError):
        asked_often(line)


# A coordinator of another version was started in the place of one that members know.
@pytest.mark.parametrize("stranger", STRANGERS)
def test_the_next_address_is_tried_where_a_stranger_is(stranger):
    stranger = Answering(STRANGERS[stranger])
    other = Answering(coordinates(SECRET), "127.0.0.2")
    line = Line([stranger.address, other.address], SECRET)
    line.trust()

    assert "a word" in asked_often(line)


class Machine:
    """One to which some words are none."""

    def heard(self, now, message):
        if message != "welcome":
            raise LayoutError("it is no word of the protocol")
        return []


@pytest.mark.parametrize("is_known", [False, True])
def test_words_of_another_version_end_who_knows_no_other_ones(is_known):
    part = object.__new__(Part)
    part._changed, part._saying, part._to_say = threading.Condition(), threading.Lock(), []
    part._machine, part._line = Machine(), Line([("127.0.0.1", 1)], SECRET)
    part._line.say = lambda line: None
    part._tasks = part._standstill = SimpleNamespace()
    known = []
    part._line.trust = lambda: known.append(1) or Line.trust(part._line)
    if is_known:
        part._hear(MEMBER + "welcome")
        part._hear(MEMBER + "of version 9")
    else:
        with pytest.raises(LayoutError):
            part._hear(MEMBER + "of version 9")
    assert bool(known) == is_known


# It would be lost: its coordinator counts whoever hangs up as gone.
def test_a_stranger_elsewhere_ends_no_connection_to_a_silent_coordinator():
    silent = Answering(coordinates(SECRET))
    stranger = Answering(serves_pages, "127.0.0.2")
    line = Line([silent.address, stranger.address], SECRET, silent_s=0.1)
    assert line.connect()
    assert line.hear(WAIT_S) == "a word"
    line.trust()
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        line.hear(0.05)
        assert line.is_heard


# Of a port that nobody listens on the kernel may make the other end of the connection, too.
def test_nobody_takes_itself_for_the_coordinator(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as made:
        address = made.getsockname()

    def to_itself(*_):
        found = socket.socket()
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.connect(address)
        return found

    monkeypatch.setattr(socket, "create_connection", to_itself)
    assert not Line([address], SECRET).connect()
