"""The policy of a script: asked beside training, and heard whatever it does."""

from __future__ import annotations

import threading

import pytest

from dynatrain.elastic.advice import Adviser, Answer, Attending, Roster, clipped, read, written
from dynatrain.layout import Layout

WAIT_S = 10.0
STATUS = {
    "members": [
        {"id": 5, "host": "pod-a", "machine": "a", "rank": 0, "role": "member", "version": 3},
        {"id": 6, "host": "pod-b", "machine": "b", "rank": None, "role": "spare", "version": 0},
        {"id": 7, "host": "pod-b", "machine": "b", "rank": 1, "role": "leaving", "version": 3},
    ],
    "world": {"layout": "dp=2"},
}
ROSTER = Roster(
    (
        Attending(5, "pod-a", "a", 0, is_leaving=False),
        Attending(6, "pod-b", "b", None, is_leaving=False),
        Attending(7, "pod-b", "b", 1, is_leaving=True),
    ),
    "dp=2",
    ("dp=2,tp=2", "dp=2"),
)


class Asking:
    """A coordinator that has published a question.

    Attributes:
        answers: that were said.
    """

    def __init__(self, policy):
        self.published = "office.1"
        self.answers = []
        self._said = threading.Semaphore(0)
        self.adviser = Adviser(policy, lambda: (self.published, ROSTER), self._say)

    def _say(self, answer):
        self.answers.append(answer)
        self._said.release()

    def answer(self):
        assert self._said.acquire(timeout=WAIT_S)
        return self.answers[-1]

    def ask(self, question):
        self.published = question
        self.adviser.asked(question)


def test_a_roster_is_read_as_it_was_written():
    layouts = (Layout.parse("dp=2,tp=2"), Layout.parse("dp=2"))
    question, roster = read(written("office.1", STATUS, layouts))

    assert (question, roster) == ("office.1", ROSTER)
    assert [each.id for each in roster.available] == [5, 6]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("tp=2", "tp=2"), (Layout(dp=2), "dp=2"), (None, "")],
)
def test_a_policy_says_a_layout_or_to_wait(wanted, said):
    asking = Asking(lambda roster: wanted)
    asking.ask("office.1")

    assert asking.answer() == Answer("office.1", said)


def refuse(roster):
    raise KeyError(roster.layout)


def leave(roster):
    raise SystemExit(3)


# A thread that dies of it would let the coordinator wait for each further answer, too.
@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (refuse, "KeyError: 'dp=2'"),
        (leave, "SystemExit"),
        (lambda roster: 4, "policy was given layout=4"),
        (lambda roster: "no layout", "LayoutError"),
    ],
)
def test_a_policy_that_fails_says_why_and_is_asked_again(policy, why):
    asking = Asking(policy)
    for question in ("office.1", "office.2"):
        asking.ask(question)
        answer = asking.answer()

        assert (answer.question, answer.layout) == (question, "")
        assert why in answer.why


# The policy was taken for busy from then on, and never asked again.
def test_a_policy_whose_answer_cannot_be_told_is_asked_again(monkeypatch, caplog):
    asking = Asking(lambda roster: "dp=2")
    fails, say = [OSError("no line"), None], asking.adviser._say

    def says(answer):
        say(answer)
        if error := fails.pop(0):
            raise error

    monkeypatch.setattr(asking.adviser, "_say", says)
    for question in ("office.1", "office.2"):
        asking.ask(question)

        assert asking.answer().question == question
    assert "could not be told: OSError: no line" in caplog.text


# Questions of a busy day must not pile up threads behind a policy that hangs.
def test_a_slow_policy_is_asked_the_newest_question_alone():
    begun, go_on, asked_in = threading.Event(), threading.Event(), []

    def slow(roster):
        asked_in.append(threading.current_thread())
        begun.set()
        assert go_on.wait(WAIT_S)

    asking = Asking(slow)
    asking.ask("office.1")
    assert begun.wait(WAIT_S)
    for number in (2, 3, 4):
        asking.ask(f"office.{number}")
    go_on.set()
    asking.answer()
    asking.answer()

    assert [answer.question for answer in asking.answers] == ["office.1", "office.4"]
    assert len(set(asked_in)) == 1


# The newer question is on its way, and who is there is told with it.
def test_a_question_that_is_over_is_not_answered():
    asked = []
    asking = Asking(asked.append)
    asking.published = "office.2"
    asking.adviser.asked("office.1")
    asking.ask("office.2")

    assert asking.answer().question == "office.2"
    assert asked == [ROSTER]


def test_an_answer_is_read_as_it_was_written():
    answer = Answer("office.1", "tp=2")

    assert Answer.of_line(answer.to_line()) == answer
    assert answer.taken() == ("tp=2", 2, "")
    assert Answer("office.1").taken() == ("", 0, "")
    assert Answer("office.1", "tp=2", "it raised").taken() == ("", 0, "it raised")


# Whoever has the secret may say it; it must not end the coordinator.
@pytest.mark.parametrize("line", ["", "[]", "{}", '{"question": "office.1"}', "nonsense"])
def test_a_line_that_is_no_answer_is_refused(line):
    with pytest.raises(ValueError):  # noqa: PT011 - a caller refuses whatever it is
        Answer.of_line(line)


def test_an_answer_that_is_no_layout_is_a_failure():
    layout, size, why = Answer("office.1", "no layout").taken()

    assert (layout, size) == ("", 0)
    assert "no layout" in why


# What a member says is another one's text: a lone surrogate in it has no UTF-8: clipping raised.
def test_a_reason_is_clipped_whatever_it_is_made_of():
    assert clipped("no file \udcff") == "no file \\udcff"
    assert clipped("\u00e9" * 999) == "\u00e9" * 450
