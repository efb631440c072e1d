"""Calls of all ranks in a job whose members come and go: refused, with what does it there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dynatrain import LayoutError
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
