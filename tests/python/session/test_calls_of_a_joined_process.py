"""Calls of all ranks in a job whose members come and go: refused, with what does it there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dynatrain import LayoutError, join
from dynatrain.session import Session


# "ask the coordinator to resize" was said to one who wanted a fingerprint.
@pytest.mark.parametrize(
    ("call", "instead"),
    [
        (lambda session: session.switch("dp=2"), r"session\.request"),
        (lambda session: session.prepare("dp=2"), "while the job trains"),
        (lambda session: session.check("dp=2"), "dynatrain status"),
        (lambda session: session.fingerprint(), "verify=.*'fingerprint'"),
        (lambda session: session.verify_replicas(), "verify=.*'replicas'"),
    ],
)
def test_a_refused_call_says_what_does_it_there(call, instead):
    session = Session.__new__(Session)
    session._loop = SimpleNamespace(gate="a coordinator's")

    with pytest.raises(LayoutError, match=instead):
        call(session)


# A thread without a name printed what it could not do with it, and the member never left: the grace
# of a launcher ended in SIGKILL.
@pytest.mark.parametrize("grace_s", ["30", None, True, float("inf"), float("nan"), 1e30, -5])
def test_a_grace_that_is_no_time_is_refused(grace_s):
    session = Session.__new__(Session)
    session._loop = SimpleNamespace(gate=SimpleNamespace(leave=lambda _: pytest.fail("it leaves")))

    with pytest.raises(LayoutError, match=r"leave was given grace_s=.*\n.*from 0 to 86400"):
        session.leave(grace_s)


# Members of one machine, or with one folder, wrote the trace of a switch over each other's.
def test_one_member_alone_writes_the_trace_of_a_switch():
    callbacks, told = [], []
    part = SimpleNamespace(engine=SimpleNamespace(rank=1))
    join._of_first(SimpleNamespace(_part=part, on_switch=callbacks.append))(told.append)

    callbacks[0]("a switch that it has joined in")
    part.engine = SimpleNamespace(rank=0)  # others have left
    callbacks[0]("the next one")

    assert told == ["the next one"]


# Its membership lived on in a thread: the coordinator counted on it, and changes waited for it.
def test_a_member_that_closes_its_session_leaves_the_job():
    did = []
    session = Session.__new__(Session)
    session._part = SimpleNamespace(
        end=lambda in_store: did.append(f"keys: {in_store}"), closed=True
    )
    gate = SimpleNamespace(quit=lambda: did.append("left the job"))
    session._loop = SimpleNamespace(gate=gate, request=None)

    session.close()

    assert did == ["keys: False", "left the job"]  # these are its coordinator's to delete
