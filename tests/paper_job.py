"""A job on paper: a coordinator and its members' machines in one thread, with a clock of their own.

Nobody trains: what a machine asks of its process is done at once, or as a test has it.
"""

from __future__ import annotations

from collections import deque

from dynatrain import _native
from dynatrain.elastic import coordinator as coordinators
from dynatrain.elastic.coordinator import MEMBER, Coordinator, CoordinatorSettings
from dynatrain.elastic.sqlite_ledger import SqliteLedger
from dynatrain.layout import Layout

TIMEOUT_S = 60.0
HEARTBEAT_MS = 1000


class Member:
    """One machine, and what it was told to do.

    Attributes:
        id: of it.
        done: what its process was asked to do, in order.
        hole: what a recovery lacks here; empty where it can be prepared.
        copies: versions that it has copies of.
    """

    def __init__(self, job, number, has_checkpoints=False, settings=""):
        self.id, self.done, self.hole, self.copies = number, [], "", ()
        self.version, self.is_alive, self._trains = 0, True, False
        self._job, self._to_hear = job, deque()
        place, timeout_ms = (f"host-{number}", ""), int(TIMEOUT_S * 1000)
        self.machine = _native.MembershipWorker(
            number,
            place,
            timeout_ms,
            job.now_ms,
            has_checkpoints=has_checkpoints,
            settings=settings,
        )

    def say(self, line):
        """The coordinator's side of its connection."""
        self._to_hear.append(line)

    def hear(self):
        """Hears what has come; whether something had."""
        had = bool(self._to_hear)
        while self._to_hear and self.is_alive:
            line = self._to_hear.popleft()
            if line.startswith(MEMBER):
                self.do(self.machine.heard(self._job.now_ms, line.removeprefix(MEMBER)))
        return had

    def do(self, actions):
        """Does what the machine asks for."""
        for action in actions:
            kind, *facts = action
            if kind == "tell":
                self._job.hear(facts[0])
                continue
            self.done.append(action)
            self.is_alive = self.is_alive and kind != "end"
            self._trains = (self._trains or kind == "train") and kind != "stop"
            if kind == "install":
                self.version = facts[2]
            elif kind in _ANSWERS:
                self.do(_ANSWERS[kind](self, self._job.now_ms, *facts))

    def prepare(self, now, attempt):
        """The answer to ``prepare``."""
        if self.hole and self.machine.epoch:
            return self.machine.prepare_broke(now, attempt, self.hole, True, False)
        return self.machine.prepare_done(now, attempt)

    def live(self):
        """Time has passed; a step that was allowed has ended."""
        self.do(self.machine.tick(self._job.now_ms))
        if self._trains:
            self.version, self._trains = self.version + 1, False
            self.do(self.machine.at_boundary(self._job.now_ms, self.version))

    def asked(self, kind):
        """The actions of one kind."""
        return [each for each in self.done if each[0] == kind]


_ANSWERS = {
    "prepare": Member.prepare,
    "switch": lambda self, now, attempt, _: self.machine.switch_moved(now, attempt),
    "stop": lambda self, now, *_: self.machine.stopped(now, self.version, True, self.copies),
    "search": lambda self, now: self.machine.found(now, []),
}


class PaperJob:
    """A coordinator of ``layouts``, and members that a test adds.

    Attributes:
        now_ms: of the clock.
        members: that have been added.
    """

    def __init__(self, monkeypatch, *layouts):
        self.now_ms, self.members = 0, []
        monkeypatch.setattr(coordinators, "now_ms", lambda: self.now_ms)
        listed = tuple(Layout.parse(each) for each in layouts)
        settings = CoordinatorSettings("127.0.0.1", 0, listed, TIMEOUT_S, b"a secret")
        self._settings, self._ledger = settings, SqliteLedger(":memory:")
        self.coordinator = Coordinator(settings, self._ledger)

    def restart(self):
        """Another coordinator goes on with the same ledger."""
        connections = self.coordinator._connections
        self.coordinator = Coordinator(self._settings, self._ledger)
        self.coordinator._connections = connections

    def add(self, num_members=1, **given):
        """Members come, and a world of them follows if one fits."""
        for _ in range(num_members):
            member = Member(self, len(self.members) + 1, **given)
            self.members.append(member)
            self.coordinator._connections[member.id] = member
        self.go_on(2 * HEARTBEAT_MS)
        return self.members[-num_members:]

    def hear(self, line):
        """The coordinator hears a member."""
        self._carry_out("heard", line)

    def kill(self, member):
        """A member's process ends, and its connection closes."""
        member.is_alive = False
        del self.coordinator._connections[member.id]
        self._carry_out("connection_closed", member.id)
        self.go_on(0)

    def ask(self, question, **facts):
        """An operator's question, and the answer."""
        return self.coordinator._answer({"ask": question, **facts})

    def go_on(self, for_ms):
        """Time passes, and all say and do what they have to."""
        until = self.now_ms + for_ms
        while True:
            for member in self._alive():
                member.live()
            self._carry_out("tick")
            self.coordinator._chronicle.waits(self.coordinator._machine.stands_because())
            while sum(member.hear() for member in self._alive()):
                pass
            if self.now_ms >= until:
                return
            self.now_ms = min(until, self.now_ms + 250)

    def _alive(self):
        return [each for each in self.members if each.is_alive]

    def _carry_out(self, event, *facts):
        machine = self.coordinator._machine
        self.coordinator._carry_out(getattr(machine, event)(self.now_ms, *facts))

    @property
    def world(self):
        """The layout of the present world."""
        return self.coordinator._machine.status(self.now_ms)["world"]["layout"]
