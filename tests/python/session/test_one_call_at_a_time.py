"""Calls that would mix with another one, or come from a forked process, are refused at once."""

from __future__ import annotations

import os
import sys
import threading

import pytest

import training_jobs as jobs
from dynatrain import LayoutError
from dynatrain.caller import Caller, _Call

CALLS = {
    "switch": lambda session: session.switch("dp=1"),
    "prepare": lambda session: session.prepare("dp=1"),
    "check": lambda session: session.check("dp=1"),
    "fingerprint": lambda session: session.fingerprint(),
    "verify_replicas": lambda session: session.verify_replicas(),
}
#: Calls, and what ends a session.
ALL = {**CALLS, "close": lambda session: session.close()}


class Slow:
    """A build that waits where a test wants it to."""

    def __init__(self):
        self.reached, self.go_on, self.waits = threading.Event(), threading.Event(), False

    def __call__(self, world):
        if self.waits:
            self.reached.set()
            assert self.go_on.wait(20)
        return jobs.build(world)


# Messages of two calls mixed: one rank got another's bytes as the reason of a refusal.
@pytest.mark.parametrize("call", CALLS)
def test_a_call_beside_another_thread_s_is_refused_and_leaves_it_alone(start, call):
    build = Slow()
    session = start(build)
    build.waits, reports = True, []
    thread = threading.Thread(target=lambda: reports.append(session.switch("dp=1")), name="first")
    thread.start()
    assert build.reached.wait(20)

    with pytest.raises(LayoutError, match="switch is under way in thread 'first'"):
        CALLS[call](session)
    build.go_on.set()
    thread.join(20)

    assert [report.epoch for report in reports] == [1]
    build.waits = False
    CALLS[call](session)


@pytest.mark.parametrize("call", CALLS)
def test_a_call_inside_a_call_is_refused(start, call):
    refused = []

    class Curious:
        def state_dict(self):
            return {}

        def load_state_dict(self, state_dict):
            pass

        def on_world(self, world):
            if session:
                with pytest.raises(LayoutError, match="while switch is under way") as error:
                    CALLS[call](session[0])
                refused.append(error)

    session = []
    session.append(start(keep={"curious": Curious()}))
    session[0].switch("dp=1")

    assert len(refused) == 1


# The call around it met groups that were gone, and reported a bug.
def test_closing_a_session_inside_a_call_is_refused(start):
    refused = []

    class Impatient:
        def on_world(self, world):
            if session:
                with pytest.raises(LayoutError, match="while switch is under way") as error:
                    session[0].close()
                refused.append(error)

    session = []
    session.append(start(keep={"impatient": Impatient()}))
    session[0].switch("dp=1")

    assert len(refused) == 1
    assert session[0].switch("dp=1").epoch == 2


# It hung, or took the groups of its parent with it.
@pytest.mark.parametrize("call", ALL)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_is_refused_and_leaves_its_parent_alone(start, call):
    session = start()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ALL[call](session)
        except LayoutError as error:
            status = 0 if "which was forked from the session's" in str(error) else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    session.switch("dp=1")


class Interrupted(BaseException):
    """What a handler of a signal raises."""


# A handler had raised between the taking of the turn and the note of it, or behind the body: each
# later call of the rank was refused, of one that had ended, and close() too.
def test_a_call_that_a_signal_has_ended_anywhere_is_not_under_way():
    caller = Caller()
    lines = {line for *_, line in Caller.alone.__code__.co_lines() if line is not None}
    reached, kept = set(), []

    def interrupts_at(line):
        def trace(frame, event, arg):
            if frame.f_code is not Caller.alone.__code__:
                return None

            def in_it(frame, event, arg):
                if event == "line" and frame.f_lineno == line and line not in reached:
                    reached.add(line)
                    raise Interrupted
                return in_it

            return in_it

        return trace

    for line in sorted(lines):
        former = sys.gettrace()
        sys.settrace(interrupts_at(line))
        try:
            caller.alone("switch", lambda: None)
        except Interrupted as error:
            kept.append(error)  # a log or a debugger may
        finally:
            sys.settrace(former)
        assert caller.alone("switch", lambda: "done") == "done"
    assert len(kept) >= 5


def test_a_call_whose_thread_has_ended_is_not_under_way():
    caller = Caller()

    def begin():
        caller._call = _Call("switch")

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    assert caller.alone("switch", lambda: "done") == "done"
