"""A coordinator whose disk is full, one that talks nonsense, and secrets of another job."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import nullcontext, suppress
from datetime import timedelta
from itertools import cycle
from types import SimpleNamespace
from typing import ClassVar

import pytest

from dynatrain import Error, LayoutError, TransportError, _native
from dynatrain.elastic import coordinator as coordinators
from dynatrain.elastic.coordinator import MEMBER, Coordinator, CoordinatorSettings
from dynatrain.elastic.line import Line
from dynatrain.elastic.part import Part
from dynatrain.elastic.seal import greeting, new_nonce
from dynatrain.elastic.sqlite_ledger import SqliteLedger
from dynatrain.elastic.standstill import Standstill
from dynatrain.layout import Layout

SECRET, TIMEOUT_S = b"of this job, and of no other one", 5.0


class FullDisk(SqliteLedger):
    """A ledger that takes no record any more."""

    def append(self, line):
        raise TransportError("the disk is full", retryable=False)


class Lost(SqliteLedger):
    """A ledger that another coordinator may write now."""

    def check(self):
        raise TransportError("another one is in office", retryable=False)


class Serving(threading.Thread):
    """A coordinator that serves in a thread, until it fails or is told to end."""

    def __init__(self, ledger, timeout_s=TIMEOUT_S):
        super().__init__(daemon=True)
        settings = CoordinatorSettings("127.0.0.1", 0, (Layout(dp=2),), timeout_s, SECRET)
        self.coordinator = Coordinator(settings, ledger)
        self.addresses = [("127.0.0.1", self.coordinator.port)]
        self.loop = asyncio.new_event_loop()
        self.serving = self.loop.create_task(self.coordinator.serve())
        self.error = None
        self.start()

    def run(self):
        try:
            with suppress(asyncio.CancelledError):
                self.loop.run_until_complete(self.serving)
        except Error as error:
            self.error = error
        self.loop.close()

    def end(self):
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.serving.cancel)
        self.join(10)


@pytest.fixture
def serve():
    made = []
    yield lambda *args: made.append(Serving(*args)) or made[-1]
    for each in made:
        each.end()


def join_line():
    """What a member says first."""
    worker = _native.MembershipWorker(7, ("a host", ""), int(TIMEOUT_S * 1000), 0)
    return next(
        facts[0] for now in (0, 10_000) for kind, *facts in worker.tick(now) if kind == "tell"
    )


# Its machine knows what no disk does: whatever it told from then on would be forgotten by the next.
def test_a_coordinator_that_cannot_write_its_ledger_ends(serve):
    serving = serve(FullDisk(":memory:"))
    line = Line(serving.addresses, SECRET)
    assert line.connect()
    line.say(MEMBER + join_line())
    serving.join(10)

    assert not serving.is_alive()
    assert "the disk is full" in str(serving.error)


def heartbeat_line():
    """What a member says that another coordinator has welcomed."""
    worker = _native.MembershipWorker(7, ("a host", ""), int(TIMEOUT_S * 1000), 0)
    worker.tick(0)
    worker.heard(0, "1 welcome")
    return next(facts[0] for kind, *facts in worker.tick(10_000) if kind == "tell")


# Its ledger was removed, or damaged: it refused the members of a healthy job as unknown, and ended
# it so.
def test_a_coordinator_whose_ledger_does_not_know_the_members_ends_and_they_do_not(serve):
    serving = serve(SqliteLedger(":memory:"))
    line = Line(serving.addresses, SECRET)
    assert line.connect()
    line.say(MEMBER + heartbeat_line())
    serving.join(10)

    assert not serving.is_alive()
    assert "member 7 was welcome before, and is not in the ledger" in str(serving.error)
    assert not any("refused" in said for said in iter(lambda: line.hear(0.2) or "", ""))


# It would hold a descriptor for as long as it likes, and thousands of such all that there are.
def test_a_connection_that_greets_and_says_nothing_is_ended(serve):
    serving = serve(SqliteLedger(":memory:"), 1.2)
    with socket.create_connection(serving.addresses[0], TIMEOUT_S) as silent:
        silent.sendall(greeting(new_nonce()) + b"\n")
        silent.settimeout(10)

        assert len(b"".join(iter(lambda: silent.recv(1 << 10), b"")).splitlines()) == 1


# It may have nothing to write for hours, and answers all that ask who trains.
def test_a_coordinator_whose_ledger_is_another_ones_ends_without_a_record(serve):
    serving = serve(Lost(":memory:"))
    serving.join(10)

    assert not serving.is_alive()
    assert "another one is in office" in str(serving.error)


# A coordinator that is moved to another host is ended so; the next one found all members lost, and
# they ended with their job.
def test_a_coordinator_that_is_told_to_end_loses_nobody(caplog):
    ledger = SqliteLedger(":memory:")
    settings = CoordinatorSettings("127.0.0.1", 0, (Layout(dp=2),), TIMEOUT_S, SECRET)
    coordinator = Coordinator(settings, ledger)
    line = Line([("127.0.0.1", coordinator.port)], SECRET)

    def join():
        assert line.connect()
        line.say(MEMBER + join_line())
        while "welcome" not in str(line.hear(TIMEOUT_S)):
            pass

    async def serve():
        serving = asyncio.ensure_future(coordinator.serve())
        await asyncio.to_thread(join)
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving

    asyncio.run(serve())  # which ends what still listens to members
    line.end()

    assert [record.split()[1] for record in ledger.lines()] == ["member-joined"]
    assert [each.getMessage() for each in caplog.records if each.module == "coordinator"] == []


class Idle:
    """What is done beside a training thread: nothing."""

    begins: ClassVar = {}

    def prepare(self, attempt):
        """Nobody asks for it."""

    def interrupt(self, asked):
        """Nobody hangs."""

    def notice(self, kind, text):
        """Nobody listens."""


# It connected again for ever, hundreds of times, and ended with words about a lost coordinator.
def test_a_member_with_another_secret_is_told_of_it(serve):
    serving = serve(SqliteLedger(":memory:"))
    line = Line(serving.addresses, b"of some other job, not this one")
    part = Part(line, TIMEOUT_S, Idle())
    with pytest.raises(TransportError, match="secret of this job's coordinator"):
        part.at_boundary(0)


class Nonsense(Line):
    """A line on which the coordinator says what is no word of the protocol."""

    def connect(self):
        return True

    def say(self, line):
        """Nobody listens."""

    def hear(self, seconds):
        time.sleep(seconds)
        return f"{MEMBER}1 no such word"


# The thread that drives the machine died of it, and the training thread waited for it for ever.
def test_a_coordinator_that_talks_nonsense_is_an_error_of_the_training_thread():
    part = Part(Nonsense([("127.0.0.1", 1)], SECRET), TIMEOUT_S, Idle())
    with pytest.raises(LayoutError):
        part.at_boundary(0)


class Failing(Idle):
    """What is done beside a training thread: a preparation that raises."""

    def __init__(self, error):
        self.error = error

    def prepare(self, attempt):
        raise self.error


class Hearing:
    """A machine that hears of preparations, as the protocol takes them: in UTF-8, and not long."""

    def prepare_broke(self, now, attempt, why, *what):
        assert len(why.encode()) <= 1000
        self.why = why
        return []


# The thread died of what it could not tell, and the others waited for this member's deadline.
@pytest.mark.parametrize(
    "error", [OSError("no file \udcff"), LayoutError("\u00e9" * 999), SystemExit("of the script")]
)
def test_whatever_a_preparation_raises_is_told(monkeypatch, error):
    monkeypatch.setattr(Part, "_feed", lambda part, event: event(0))
    part = object.__new__(Part)
    part._tasks, part._machine = Failing(error), Hearing()
    part._prepared(1)

    assert part._machine.why.startswith(type(error).__name__)


# The thread of the protocol died of it, and with it the member: the attempt alone is to fail.
def test_an_attempt_without_a_thread_for_it_fails_alone(monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    part = object.__new__(Part)
    part._changed, part._is_to_search = threading.Condition(), False
    part._saying, part._to_say, part._asked = threading.Lock(), deque(), deque()
    part._to_leave, part._standstill = deque(), Standstill(TIMEOUT_S)
    part._tasks, part._machine = Idle(), Hearing()
    part._feed(lambda now: [("prepare", 3), ("search",)])
    part._do_late()

    assert "can start no thread" in part._machine.why
    assert part._is_to_search  # at the next tick again


# It comes back from C++ while the interpreter ends: a script that had done all ended by SIGABRT.
LATE = """
import threading
from dynatrain.generation import late as threads
from dynatrain.generation.late import outlives

threads._MARGIN_S = 1.0
connects, dead = threading.Event(), threading.Event()
late = threading.Thread(target=lambda: (connects.wait(0.3), print("has come back")), daemon=True)
stuck = threading.Thread(target=dead.wait, daemon=True)
for thread, seconds in ((late, 0.1), (stuck, 0.1)):
    thread.start()
    outlives(thread, seconds)
"""


def test_the_process_waits_for_threads_that_connect_still_and_no_longer_than_they_may():
    found = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (0, "has come back\n"), found.stderr


# A handler of a signal asks, whatever the thread that it interrupts holds: the thread of the
# protocol tells the machine.
def test_a_handler_that_asks_to_leave_takes_no_lock():
    told = []
    part = object.__new__(Part)
    part._changed, part._to_leave, part._is_to_search = threading.Lock(), deque(), False
    with part._changed:  # as it may be where the signal comes
        part.leave_soon(30.0)
    part.leave = told.append
    part._do_late()
    part._do_late()

    assert told == [30.0]


class Searching(Idle):
    """What is done beside a training thread: a search that succeeds after errors."""

    def __init__(self, *errors):
        self.errors = [*errors]

    def find_versions(self):
        if self.errors:
            raise self.errors.pop(0)
        return [8, 4]


# Another error than the system's ended the thread: the coordinator waited for what this member
# sees on disk, and no world began.
def test_whatever_a_search_for_checkpoints_raises_it_is_tried_again(monkeypatch, caplog):
    found = []
    monkeypatch.setattr(Part, "_feed", lambda part, event: event(0))
    part = object.__new__(Part)
    part._ended, part._tick_s = False, 0.001
    part._tasks = Searching(OSError("stale"), OSError("stale"), RuntimeError("no more threads"))
    part._machine = SimpleNamespace(found=lambda now, versions: found.extend(versions) or [])
    part._searched()

    assert found == [8, 4]
    said = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
    assert said == ["stale", "no more threads"]


# A thousand members leave twenty thousand keys: all were deleted at once, and heartbeats that came
# meanwhile were read half a second late.
def test_keys_of_former_worlds_go_in_pieces_and_all_go(monkeypatch):
    settings = CoordinatorSettings("127.0.0.1", 0, (Layout(dp=2),), TIMEOUT_S, SECRET)
    coordinator = Coordinator(settings, SqliteLedger(":memory:"))
    store, left = coordinator._store, []
    over = {f"3.{n}/key" for n in range(300)} | {"attempt/6"}
    stay = {"4.7/key", "attempt/7", "consult"}
    for key in over | stay:
        store.set(key, "")
    clock = SimpleNamespace(monotonic=cycle([0.0, 0.0, 1.0]).__next__)  # time for one piece
    monkeypatch.setattr(coordinators, "time", clock)
    coordinator._forget_worlds_before(4, 7)
    left.append(len(over & {*store.list_keys()}))
    coordinator._sweep()
    coordinator._forget_worlds_before(4, 7)  # what remains is given up once
    while left[-1] and len(left) < 20:
        left.append(len(over & {*store.list_keys()}))
        coordinator._sweep()

    assert left == [301, 237, 173, 109, 45, 0]
    assert stay <= {*store.list_keys()}


# A third has no end in decimals: the coordinator's own number was refused.
@pytest.mark.parametrize(("theirs_s", "is_taken"), [(100 / 3, True), (33.3, False)])
def test_only_another_deadline_than_the_coordinators_is_refused(theirs_s, is_taken):
    part = object.__new__(Part)
    part._timeout, part._adviser = timedelta(seconds=100 / 3), None
    part._line, part._machine = SimpleNamespace(host="here"), SimpleNamespace(epoch=0)
    with nullcontext() if is_taken else pytest.raises(LayoutError, match=r"--timeout-s 33\.3\n"):
        part._hear(f"store 7 {theirs_s!r}")
    assert part._store_at == ("here", 7)
