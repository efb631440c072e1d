"""One process's part in an elastic job: its machine, and what that asks of the training thread."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch._C._distributed_c10d import TCPStore

from dynatrain import _native, given
from dynatrain._errors import LayoutError
from dynatrain._threads import Beside, started
from dynatrain.elastic import attempts
from dynatrain.elastic.advice import Adviser, Answer, Policy, Roster, clipped, read
from dynatrain.elastic.asked import Asked
from dynatrain.elastic.attempts import UncoveredError
from dynatrain.elastic.deadlines import now_ms
from dynatrain.elastic.ends import no_store, other_timeout
from dynatrain.elastic.line import Line
from dynatrain.elastic.seal import MEMBER, POLICY
from dynatrain.elastic.searching import found_at_last
from dynatrain.elastic.standstill import Standstill, Unanswered
from dynatrain.elastic.stuck import Stuck, why_lost
from dynatrain.elastic.trace import traced
from dynatrain.generation.late import outlives
from dynatrain.generation.nodes import host_name, node_name

_log = logging.getLogger("dynatrain.elastic")


class Tasks(Protocol):
    """What is done beside the training thread when the protocol asks for it."""

    def prepare(self, attempt: int) -> None:
        """Prepares an attempt, in a thread of its own; what it raises is told."""

    @property
    def begins(self) -> Mapping[str, Any]:
        """``has_checkpoints`` and ``settings`` of ``membership::WorkerOptions``."""

    def find_versions(self) -> list[int]:
        """Versions of the job on disk, in a thread of its own; raises where that cannot be told."""

    def notice(self, kind: str, text: str) -> None:
        """Takes note of what the script may want to hear, in any thread."""

    def interrupt(self, asked: Asked) -> None:
        """Ends what the training thread may hang in, so that it hears what is asked; in any."""


class Part:
    """The protocol's machine of this process, driven by a thread of its own.

    Args:
        line: to the coordinator.
        timeout_s: as the coordinator has it.
        tasks: of the driver.
        traces: folder for the trace of this machine, or None.
        policy: of the script, or None.

    Raises:
        LayoutError: the trace cannot be written.
    """

    def __init__(
        self,
        line: Line,
        timeout_s: float,
        tasks: Tasks,
        traces: Path | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.id, self._store_at = secrets.randbits(52) + 1, ("", 0)
        timeout_ms = int(timeout_s * 1000)
        self._line = line
        self._tasks = tasks
        self._timeout = timedelta(seconds=timeout_s)
        self._adviser = None if policy is None else Adviser(policy, self._roster, self._advise)
        deadlines = _native.membership_deadlines(timeout_ms)
        self.lost_after_s = deadlines["lost_after_ms"] / 1000  #: so long a member may be silent
        self._abandon_s = deadlines["abandon_ms"] / 1000
        self._tick_s = _native.membership_tick_ms(timeout_ms) / 1000
        self._changed = threading.Condition()
        self._asked: deque[Asked] = deque()
        self._to_say: deque[str] = deque()
        self._saying = threading.Lock()
        self._ended = self._is_to_search = False
        self._to_leave: deque[float] = deque()
        self._preparing: list[threading.Thread] = []
        self._refused: Exception | None = None
        path = None if traces is None else traces / f"member-{self.id}.trace"
        begins = {
            "id": self.id,
            "place": (host_name(), node_name()),
            "timeout_ms": timeout_ms,
            "now_ms": now_ms(),
            **tasks.begins,
        }
        self._standstill = Standstill(timeout_s)
        self._stuck = Stuck(timeout_s)
        self._machine, self._trace = traced(path, "worker", **begins)
        self._thread = Beside("dynatrain membership", self._run)
        self._thread.start()

    # ---- of the training thread ----------------------------------------------------------------

    def at_boundary(self, version: int) -> Asked:
        """What is to be done between two steps: to train, or something before that. Blocks."""
        self.rests()
        self._feed(lambda now: self._machine.at_boundary(now, version))
        return self.next()

    def rests(self) -> None:
        """The calling thread trains, and is between two steps."""
        self._stuck.watch(threading.current_thread())

    def next(self) -> Asked:
        """What is to be done next. Blocks until there is something.

        Raises:
            TransportError: the coordinator does not take this process for one of the job.
            LayoutError: the first that it has said is no word of the protocol.
        """
        with self._changed:
            while not self._asked:
                if self._refused is not None:
                    raise self._refused
                self._changed.wait(1.0)
            if self._asked[0].kind == "train":
                self._stuck.begins()
            return self._asked.popleft()

    def ask(self, asked: Asked) -> None:
        """Has the training thread do something where it waits for what is asked."""
        with self._changed:
            self._asked.append(asked)
            self._changed.notify_all()

    def is_to_stop(self, seconds: float) -> bool:
        """Whether the step is to end, or the process; waits until it is, ``seconds`` at most."""
        with self._changed:
            return self._changed.wait_for(
                lambda: any(asked.kind in ("stop", "end") for asked in self._asked), seconds
            )

    @property
    def waiting(self) -> list[Asked]:
        """What the training thread is asked for, and has not heard yet."""
        with self._changed:
            return [*self._asked]

    def moved(self, attempt: int) -> None:
        """The state has moved: this member votes yes."""
        self._feed(lambda now: self._machine.switch_moved(now, attempt))

    def broke(self, attempt: int, why: str, *, is_refusal: bool) -> None:
        """The switch has failed here: this member votes no.

        ``is_refusal``: the target cannot be taken from the state as it is.
        """
        self._feed(lambda now: self._machine.switch_broke(now, attempt, clipped(why), is_refusal))

    def leave(self, grace_s: float) -> None:
        """Asks to be left out."""
        _log.info("asks to leave; it goes in %g s, whatever the others have by then", grace_s)
        self._feed(lambda now: self._machine.leave_wanted(now, int(grace_s * 1000)))

    def leave_soon(self, grace_s: float) -> None:
        """The same, by the thread of the protocol: what calls this may hold any lock."""
        self._to_leave.append(grace_s)

    def finished(self) -> None:
        """The script has done its last step."""
        self._feed(lambda now: self._machine.script_finished(now))

    def step_broke(self, suspects: Sequence[int] = ()) -> None:
        """The step that was allowed has failed."""
        self._feed(lambda now: self._machine.step_broke(now, list(suspects)))

    def stopped(self, version: int, earlier: Sequence[int], *, is_clean: bool) -> None:
        """Answers ``stop``: nothing runs any more, and this is what the state is, or can be."""
        self._feed(lambda now: self._machine.stopped(now, version, is_clean, list(earlier)))

    def copied(self, epoch: int, is_on_disk: bool) -> None:
        """A snapshot, or a checkpoint, of the world with this epoch is whole; in any thread."""
        self._feed(lambda now: self._machine.copied(now, epoch, is_on_disk))

    def end(self) -> None:
        """Ends the thread and the connection."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for thread in self._preparing:
            outlives(thread, self._timeout.total_seconds())
        if threading.current_thread() is not self._thread:
            self._thread.join(2.0)

    # ---- of its own thread ---------------------------------------------------------------------

    def _run(self) -> None:
        is_there = False
        unanswered = Unanswered(self.id, self._line.addresses, self._abandon_s)
        while not self._ended:
            try:
                if self._line.connect():
                    line = self._line.hear(self._tick_s)
                    if line is not None:
                        self._hear(line)
                else:
                    time.sleep(self._tick_s)
                if self._line.is_heard is not is_there:
                    is_there = not is_there
                    self._tell_of_coordinator(is_there)
                unanswered.told(is_there=is_there)
                self._feed(self._machine.tick)
                self._do_late()
                self._stuck.look(why_lost(self.waiting))
                self._write_trace()
            except Exception as error:  # noqa: BLE001 - the training thread waits for this one
                self._refuse(error)
                return
        self._say_all()
        self._line.end()
        self._write_trace()

    def _do_late(self) -> None:
        """What others have left to this thread, or what has found no thread before."""
        while self._to_leave:
            self.leave(self._to_leave.popleft())
        if self._is_to_search:
            self._is_to_search = False
            if started("dynatrain looks for checkpoints", self._searched) is None:
                self._is_to_search = True  # at the next tick again

    def _tell_of_coordinator(self, is_there: bool) -> None:
        kind = "coordinator-found" if is_there else "coordinator-lost"
        words = self._what_waits(is_there)
        self._tasks.notice(kind, words)
        _log.info("%s: %s", kind, words)
        if not is_there:
            self._store_at = ("", 0)

    def _what_waits(self, is_there: bool) -> str:
        """What the coordinator's coming or going is for this member."""
        if is_there:
            return "changes go on"
        with self._changed:
            why = self._machine.holds_because()
        if not why:
            return "training goes on, changes wait for it"
        return f"this member stands still until it is back: {why}"

    def _write_trace(self) -> None:
        with self._changed:
            self._trace.write()

    def _refuse(self, error: Exception) -> None:
        """Ends this side; the training thread raises ``error`` at its next boundary."""
        self._line.end()
        with self._changed:
            self._trace.write()
            self._refused = error
            self._changed.notify_all()

    def _hear(self, line: str) -> None:
        if line.startswith("store "):
            port, timeout_s = line.removeprefix("store ").split()
            self._store_at = (self._line.host, int(port))
            if self._machine.epoch == 0 and timedelta(seconds=float(timeout_s)) != self._timeout:
                raise other_timeout(self._timeout.total_seconds(), float(timeout_s))
            if self._adviser is not None:
                self._advise(Answer(""))
        elif line.startswith("consult "):
            if self._adviser is not None:
                self._adviser.asked(line.removeprefix("consult "))
        else:
            self._feed(partial(self._understood, line.removeprefix(MEMBER)))

    def _understood(self, message: str, now: int) -> list[tuple[Any, ...]]:
        """What the machine makes of a message; nothing of one of another version."""
        try:
            actions: list[tuple[Any, ...]] = self._machine.heard(now, message)
        except LayoutError as error:
            self._line.distrust(error)
            return []
        self._line.trust()
        return actions

    def _say_all(self) -> None:
        with self._saying:
            while self._to_say:
                line = self._to_say.popleft()
                self._line.say(MEMBER + line)  # heartbeats say again what is lost

    # ---- of the thread of a policy -------------------------------------------------------------

    def _roster(self) -> tuple[str, Roster]:
        """What the coordinator has published for policies."""
        return read(self.store().get("consult"))

    def store(self) -> TCPStore:
        """A connection of its own to the coordinator's store; in any thread.

        Raises:
            TransportError: there is no coordinator.
            RuntimeError: its store does not answer.
        """
        host, port = self._store_at
        if not port:
            raise no_store()
        return TCPStore(host, port, is_master=False, timeout=self._timeout)

    def _advise(self, answer: Answer) -> None:
        with self._saying:
            self._line.say(POLICY + answer.to_line())

    # ---- of either -----------------------------------------------------------------------------

    def _feed(self, event: Callable[[int], list[tuple[Any, ...]]]) -> None:
        """Gives the machine an event and hands on what it asks for."""
        to_prepare, to_interrupt, beside = [], [], []
        with self._changed:
            for kind, *facts in event(now_ms()):
                if kind == "tell":
                    self._to_say.append(facts[0])
                elif kind == "prepare":
                    to_prepare.append(facts[0])
                elif kind in ("search", "stand"):
                    beside.append((kind, facts))
                else:
                    asked = Asked.of(kind, facts)
                    self._asked.append(asked)
                    if asked.ends_waits:
                        to_interrupt.append(asked)
            self._changed.notify_all()
        for asked in to_interrupt:
            self._tasks.interrupt(asked)
        self._say_all()
        for attempt in to_prepare:
            self._standstill.goes_on()
            thread = started(f"dynatrain prepares {attempt}", self._prepared, attempt)
            if thread is None:
                self._prepare_broke(attempt, RuntimeError("this process can start no thread"))
            else:
                self._preparing = [*filter(threading.Thread.is_alive, self._preparing), thread]
        for kind, facts in beside:
            self._do_beside(kind, facts)

    def _do_beside(self, kind: str, facts: Sequence[Any]) -> None:
        """What neither the training thread nor a preparation has a part in."""
        if kind == "search":
            self._is_to_search = True
            return
        why, is_gone = facts
        trains_later = self._machine.epoch == 0
        self._standstill.told(why, is_gone=is_gone, trains_later=trains_later)

    def _searched(self) -> None:
        """Says which versions are on disk, once that can be told: the coordinator waits for it."""
        find, is_over = self._tasks.find_versions, lambda: self._ended
        versions = found_at_last(find, is_over, self._tick_s)
        if versions is not None:
            self._feed(partial(self._found, versions))

    def _found(self, versions: Sequence[int], now: int) -> list[tuple[Any, ...]]:
        actions: list[tuple[Any, ...]] = self._machine.found(now, versions)
        return actions

    def _prepared(self, attempt: int) -> None:
        try:
            self._tasks.prepare(attempt)
        except UncoveredError as error:
            self._uncovered(attempt, error)
        except BaseException as error:  # noqa: BLE001 - the coordinator and all others learn of it
            self._prepare_broke(attempt, error)
        else:
            self._feed(lambda now: self._machine.prepare_done(now, attempt))

    def _prepare_broke(self, attempt: int, error: BaseException) -> None:
        why, is_refusal = clipped(given.described(error)), attempts.is_refusal(error)
        _log.warning("attempt %d could not be prepared here: %s", attempt, why)
        self._feed(lambda now: self._machine.prepare_broke(now, attempt, why, False, is_refusal))

    def _uncovered(self, attempt: int, error: UncoveredError) -> None:
        """Says that a version is not whole; to be expected where copies are asked next."""
        why, is_refusal = str(error), error.may_be_the_target
        if error.then:
            _log.info("attempt %d: %s; %s", attempt, why, error.then)
        else:
            _log.warning("attempt %d: %s; no member has another version of it", attempt, why)
        told = clipped(why)
        self._feed(lambda now: self._machine.prepare_broke(now, attempt, told, True, is_refusal))
