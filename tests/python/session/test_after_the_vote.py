"""What fails once the ranks have voted says that the switch is done, whatever it was."""

from __future__ import annotations

import pytest

from dynatrain import BudgetError, InternalError, LayoutError, TransportError
from dynatrain.switch import calls, story
from dynatrain.switch.decided import Vote

ERRORS = [
    MemoryError("no room"),
    LayoutError("nothing was moved"),
    BudgetError("no room"),
    KeyError(),
]
CLAIMS = ("nothing was moved", "nothing was switched", "state is intact", "training may go on")


def fails_with(error):
    def fail(*_args, **_kwargs):
        raise error

    return fail


def claims_intact(error):
    """Whether a message says by itself, not by what it is chained to, that nothing happened."""
    own = "\n".join(str(error).splitlines()[1:])
    return any(claim in own for claim in CLAIMS)


# `except BudgetError` of a script would train on as if it still had the source.
@pytest.mark.parametrize("moment", ["continue_streams", "tell"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_failure_after_the_vote_is_an_internal_error(start, monkeypatch, moment, error):
    session = start()
    if moment == "tell":
        monkeypatch.setattr(story, "_tell", fails_with(error))
    else:
        monkeypatch.setattr(session._part.adapter, moment, fails_with(error))

    with pytest.raises(InternalError, match="the switch is done") as raised:
        session.switch("dp=1")

    assert raised.value.__cause__ is error
    assert not claims_intact(raised.value)
    assert "start it from its last checkpoint" in str(raised.value)


# The former state stays in memory then, and is nothing that training needs.
def test_a_former_state_that_cannot_be_let_go_of_ends_nothing(start, monkeypatch, caplog):
    session = start()
    monkeypatch.setattr(session._part.adapter, "retire", fails_with(MemoryError("no room")))
    assert session.switch("dp=1").epoch == 1
    assert "the former state could not be let go of: no room" in caplog.text


# On one rank it left the call before the exchange that the others were in.
def test_what_cannot_be_told_of_costs_no_switch(start, monkeypatch):
    session = start()
    monkeypatch.setattr(session._part.adapter, "left_behind", fails_with(MemoryError("no room")))
    assert session.switch("dp=1").epoch == 1


def test_numbers_that_cannot_be_told_end_nothing(start, monkeypatch, caplog):
    session = start()
    monkeypatch.setattr(story, "RankStats", fails_with(MemoryError("no room")))
    heard = []
    session.on_switch(heard.append)
    session.on_switch(fails_with(SystemExit(3)))
    session.on_switch(heard.append)
    with pytest.raises(SystemExit):
        session.switch("dp=1")
    assert "has no numbers of it: no room" in caplog.text
    assert len(heard) == 2  # nor does one callback keep it from the next


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_request_that_leaves_a_rank_undecided_ends_its_loop(start, monkeypatch, error):
    session = start()
    monkeypatch.setattr(session._part.adapter, "continue_streams", fails_with(error))
    asked = []

    def train():
        for _ in session.steps(2):
            asked.append(session.request("dp=1"))

    with pytest.raises(InternalError):
        train()
    assert isinstance(asked[0].exception(0), InternalError)
    assert len(asked) == 1


# Ranks that got their memory have voted, and one that did not cannot tell: it must not train on.
def test_rank_that_cannot_read_the_vote_does_not_claim_that_nothing_happened(start, monkeypatch):
    session = start()
    meet = session._part.generation.meeting.meet
    moments = []

    def fail_at_the_vote(*brought, **told):
        met = meet(*brought, **told)
        moments.append(met.name)
        if len(moments) == 2:
            raise MemoryError("no room")
        return met

    monkeypatch.setattr(session._part.generation.meeting, "meet", fail_at_the_vote)
    with pytest.raises(InternalError, match="others may have") as raised:
        session.switch("dp=1")

    with pytest.raises(InternalError, match="nobody knows whether"):
        _ = session.world
    assert "training may go on" not in str(raised.value)


# In a job with a coordinator a rank knows whether it has told it: without its vote nobody goes on.
def test_rank_that_fails_before_its_vote_can_count_trains_on(start):
    session = start()
    vote = session._part.vote
    session._part.vote = Vote(fails_with(MemoryError("no room")), lambda: False)
    with pytest.raises(BudgetError, match="the source state is intact"):
        session.switch("dp=1")

    session._part.vote = vote
    assert session.switch("dp=1").epoch == 1


# The vote itself refuses as every call does, and so do the phases before it.
def test_failure_before_the_vote_is_of_its_kind(start, monkeypatch):
    session = start()
    refused = TransportError("session: nobody came\n  nothing was moved")
    with monkeypatch.context() as patched:
        patched.setattr(calls.Calls, "meet", fails_with(refused))
        with pytest.raises(TransportError) as raised:
            session.switch("dp=1")
    assert raised.value is refused

    with monkeypatch.context() as patched:
        patched.setattr(session._part.adapter, "take_values", fails_with(MemoryError("no room")))
        with pytest.raises(BudgetError, match="the source state is intact"):
            session.switch("dp=1")
    assert session.switch("dp=1").epoch == 1
