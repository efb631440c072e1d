"""What the script's own objects and errors say, made fit to be sent and printed."""

from __future__ import annotations

import pytest

from dynatrain._errors import is_out_of_memory, of_family
from dynatrain.generation.control import Trouble
from dynatrain.given import described, first_line, said
from hostile_objects import Nameless, RaisingText, UnspeakableError


class AnswersError(RuntimeError):
    """Says what it was given, in whichever class."""

    def __str__(self):
        return self.args[0]


# One raised out of the refusal of another would end this rank alone.
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UnspeakableError(), "(this UnspeakableError has no text)"),
        (AnswersError(b"no room"), "(this AnswersError has no text)"),
        (AnswersError(RaisingText("no room")), "no room"),
        (RuntimeError("a\ud800b"), "a\\ud800b"),
        (ValueError(), ""),
    ],
    ids=["unspeakable", "bytes", "hostile text", "surrogate", "empty"],
)
def test_error_is_said_in_text_that_can_be_sent(error, words):
    assert said(error) == words
    assert type(said(error)) is str
    assert described(error) == f"{type(error).__name__}: {words}"
    assert first_line(error) == (words or "ValueError")
    assert not is_out_of_memory(error)
    Trouble.of(of_family(error, "the test")).text.encode()


# torch puts whole stacks of C++ into some, and every rank gets the text of every other one.
def test_overlong_text_of_an_error_is_cut():
    assert len(said(RuntimeError("x" * 10**6))) < 10_000


def test_kind_of_an_error_is_not_asked_of_its_metaclass():
    kind = type(Nameless)("NamelessError", (RuntimeError,), {})

    assert described(kind("no room")) == "NamelessError: no room"
