"""What a coordinator answers about more members than one line has room for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading

import pytest

from dynatrain import TransportError
from dynatrain.elastic import answers
from dynatrain.elastic.ask import ask
from dynatrain.elastic.coordinator import MEMBER, Coordinator, CoordinatorSettings
from dynatrain.elastic.line import Line
from dynatrain.elastic.seal import MAX_LINE_BYTES, Seal
from dynatrain.layout import Layout

SECRET = b"of this job, and of no other one"
ROOM = MAX_LINE_BYTES - answers.SEALED_BYTES - 1


def sealed(text):
    """The lines of an answer as the coordinator sends them."""
    seal = Seal(SECRET, ("a", "b"), is_coordinator=True)
    return [seal.close(line) for line in answers.in_lines(text)]


def opened(lines):
    """The answer as who has asked takes it."""
    seal, left = Seal(SECRET, ("a", "b"), is_coordinator=False), iter(lines)
    return answers.of_lines(lambda: seal.open(line) if (line := next(left, None)) else None)


# The last byte of a line and the first one of the next are where one could be lost.
@pytest.mark.parametrize("size", [0, 1, ROOM - 1, ROOM, ROOM + 1, 2 * ROOM, 2 * ROOM + 1])
def test_an_answer_arrives_whole_in_lines_that_are_not_too_long(size):
    text = "".join(chr(ord("a") + at % 26) for at in range(size))
    lines = sealed(text)

    assert max(map(len, lines)) <= MAX_LINE_BYTES
    assert len(lines) == max(1, -(-size // ROOM))
    assert opened(lines) == text


# A cut answer would read as a smaller job, were it JSON by chance.
def test_an_answer_without_its_last_line_is_none():
    assert opened(sealed("x" * (2 * ROOM))[:1]) is None


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2), (0, 0, 1, 2)])
def test_lines_of_an_answer_in_another_order_are_refused(order):
    lines = sealed("x" * (2 * ROOM + 1))
    with pytest.raises(TransportError, match="code"):
        opened([lines[at] for at in order])


# Who has the secret is trusted with it, but a mistake should not fill an operator's memory.
def test_an_answer_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr(answers, "MAX_ANSWER_BYTES", 3 * ROOM)
    with pytest.raises(TransportError, match="bytes at most"):
        answers.of_lines(lambda: "+" + "x" * ROOM)


def test_a_line_that_is_of_no_answer_is_refused():
    with pytest.raises(TransportError, match="the same version"):
        answers.of_lines(lambda: '{"phase": "steady"}')


class Records:
    """A ledger that has heard of 1,500 members."""

    MEMBERS = range(1 << 52, (1 << 52) + 1500)

    def lines(self):
        return [
            f"1 member-joined id={each} host=a-host-of-a-cluster settings= machine=a-machine"
            for each in self.MEMBERS
        ]

    def append(self, line):
        """Nobody reads it again."""

    def check(self):
        """It is this one's."""


@pytest.fixture
def line():
    """One to a coordinator that serves in a thread."""
    settings = CoordinatorSettings("127.0.0.1", 0, (Layout(dp=2000),), 30.0, SECRET)
    made, loop = Coordinator(settings, Records()), asyncio.new_event_loop()
    serving = loop.create_task(made.serve())

    def serve():
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(serving)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield Line([("127.0.0.1", made.port)], SECRET)
    loop.call_soon_threadsafe(serving.cancel)
    thread.join(20)
    assert not thread.is_alive()
    loop.close()


# It was one line, which who asks refused from about 400 members on: the larger a job, the less
# could be seen of it.
def test_the_status_of_fifteen_hundred_members_is_told(line):
    status = ask(line, {"ask": "status"}, 30.0)

    assert sorted(each["id"] for each in status["members"]) == [*Records.MEMBERS]
    assert len(json.dumps(status)) > 3 * MAX_LINE_BYTES, "one line would have had room"


# Lines of strangers stay as short as they were: only answers are long.
def test_a_line_to_the_coordinator_is_as_short_as_before(line):
    assert line.connect()
    line.say(MEMBER + "x" * MAX_LINE_BYTES)
    assert line.hear(20.0) is None
    assert not line.connected
