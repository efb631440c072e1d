"""What the script's own objects and errors say, made fit to be sent and printed."""

from __future__ import annotations

import pytest

import training_jobs as jobs
from dynatrain import LayoutError, TrainState
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


# It was told as an error of the library's own, of nothing that the user could find.
def test_who_raised_an_error_without_text_is_named(start):
    class Extra:
        def state_dict(self):
            raise UnspeakableError

        def load_state_dict(self, state_dict):
            pass

    def build(world):
        made = jobs.build(world)
        return TrainState(made.model, made.optimizer, extra={"mute": Extra()})

    with pytest.raises(LayoutError, match=r"state_dict\(\) of extra\.mute raised UnspeakableError"):
        start(build).switch("dp=1")


def test_what_build_raises_without_text_is_named(start):
    def build(world):
        raise UnspeakableError

    with pytest.raises(LayoutError, match="build raised UnspeakableError"):
        start(build)
