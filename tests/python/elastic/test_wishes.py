"""What a script hears of a layout that it has wished for."""

from __future__ import annotations

import pytest

from dynatrain import Layout, LayoutError, TransportError
from dynatrain.elastic.wishes import Wishes
from dynatrain.report import SwitchReport

LAYOUT, DEADLINE_S = Layout(dp=2), 10.0
REPORT = SwitchReport("dp=1", "dp=2", 1, 3, prepared=True)


class FakeCoordinator:
    """Answers whether a layout may still come by what it is given, the last one for ever."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def ask(self, question):
        self.asked.append(question)
        if question["ask"] == "resize":
            return {"world": {"epoch": 3}}
        assert question["epoch"] == 3
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return {"why_not": answer}


def test_a_wish_is_fulfilled_by_the_switch_to_it():
    coordinator = FakeCoordinator("")
    wishes = Wishes(coordinator.ask, poll_s=0.01)
    future = wishes.wish(LAYOUT)
    wishes.fulfilled(SwitchReport("dp=1", "dp=4", 1, 3, prepared=True))
    assert not future.done()

    wishes.fulfilled(REPORT)

    assert future.result(DEADLINE_S) is REPORT


# It stayed open for as long as the member lived.
def test_a_wish_that_is_refused_says_why():
    future = Wishes(FakeCoordinator("", "it cuts no head").ask, poll_s=0.01).wish(LAYOUT)

    with pytest.raises(LayoutError, match="no other wish: it cuts no head"):
        future.result(DEADLINE_S)


# The thread that asks died of it, and the script waited for the future without end.
def test_an_answer_that_cannot_be_read_is_told():
    future = Wishes(lambda question: {}, poll_s=0.01).wish(LAYOUT)

    with pytest.raises(LayoutError, match="asking the coordinator for a layout raised KeyError"):
        future.result(DEADLINE_S)


def test_a_coordinator_that_is_away_for_a_while_has_the_wish_still():
    away = TransportError("nobody listens")
    future = Wishes(FakeCoordinator(away, away, "refused").ask, poll_s=0.01).wish(LAYOUT)

    with pytest.raises(LayoutError, match="refused"):
        future.result(DEADLINE_S)


@pytest.mark.parametrize("end", ["fulfilled", "cancelled", "ended"])
def test_nobody_asks_on_for_a_wish_that_is_over(end):
    wishes = Wishes(FakeCoordinator("").ask, poll_s=0.01)
    future = wishes.wish(LAYOUT)
    {
        "fulfilled": lambda: wishes.fulfilled(REPORT),
        "cancelled": future.cancel,
        "ended": wishes.end,
    }[end]()

    assert future.done()
    assert not wishes._is_open(future)
