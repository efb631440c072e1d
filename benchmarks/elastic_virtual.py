"""A job in virtual time: what it is charged, how it trains between two moments of a trace."""

from __future__ import annotations

import heapq
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from elastic_course import AGAIN, HOUR, SAVE, STOP, TRAIN, Course, Piece
from elastic_traces import Instant

NEAR = 1e-9


@dataclass(frozen=True)
class Costs:
    """What events cost, in seconds, as measured.

    Attributes:
        join: that training stands still when nodes are taken in.
        leave: the same when nodes are left out.
        kill: from the last step before nodes are lost to the next one.
        preparing: beside training, before a planned change.
        slowdown: of steps in that time; 1 for none.
        start: from a process's start until it can be taken in.
        restart: from the last step to the next one, where a checkpoint is saved before.
        restart_after_kill: the same where none is.
        save: of a checkpoint, while training stands still.
    """

    join: float
    leave: float
    kill: float
    preparing: float
    slowdown: float
    start: float
    restart: float
    restart_after_kill: float
    save: float

    @property
    def slowed(self) -> float:
        """Seconds of training that a preparation takes."""
        return self.preparing * (1 - 1 / self.slowdown)


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        layouts: (replicas, nodes of each), from the one that is wanted most.
        replica: nodes of a replica where replicas are whole.
        step: node-seconds of one step.
        notice: whether removals are known before.
    """

    layouts: Sequence[tuple[int, int]]
    replica: int
    step: float
    notice: bool = False

    def layout(self, num_nodes: int) -> tuple[int, int]:
        """The first layout that fits; of no nodes where none does."""
        fits = (each for each in self.layouts if each[0] * each[1] <= num_nodes)
        return next(fits, (0, 1))


class Job(ABC):
    """A job that meets the moments of a trace; each kind in its own way.

    Attributes:
        course: what it has done so far.
        every: seconds of training between two checkpoints.
        present: nodes that are there, in the order of their coming.
        used: how many of them have a place in the layout.
    """

    def __init__(self, task: Task, costs: Costs, every: float = HOUR) -> None:
        self.task, self.costs, self.every = task, costs, every
        self.course = Course()
        self.present: list[str] = []
        self.used = 0
        self._now = 0.0
        self._done = self._best = self._saved = 0.0
        self._since_save = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    # ---- what differs --------------------------------------------------------------------------

    @abstractmethod
    def begin(self) -> None:
        """Takes the nodes that are there."""

    @abstractmethod
    def remove(self, nodes: Sequence[str]) -> None:
        """These are gone."""

    @abstractmethod
    def add(self, nodes: Sequence[str]) -> None:
        """These are there."""

    # ---- what they do it with ------------------------------------------------------------------

    def run(self, trace: Sequence[Instant], end: float) -> Course:
        """Meets all moments of a trace, and trains on to its end."""
        first, *rest = trace
        self._now = first.seconds
        self.present = list(first.added)
        self.begin()
        for instant in rest:
            self.at(instant.seconds, lambda instant=instant: self._meet(instant))
        while self._agenda and self._agenda[0][0] < end:
            at, _, do = heapq.heappop(self._agenda)
            self._go_on(at)
            do()
        self._go_on(end)
        return self.course

    def at(self, seconds: float, do: Callable[[], None]) -> None:
        """Has something be done at a time, or as soon as the job goes on."""
        heapq.heappush(self._agenda, (seconds, next(self._numbers), do))

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Has something be done so many seconds from now."""
        self.at(self._now + seconds, do)

    def change(self, seconds: float, used: int) -> None:
        """Stands still, and goes on with so many nodes; from the checkpoint where none did."""
        if not self.used and used:
            self.lose_state()
            seconds = self.costs.restart_after_kill
        self.course.downtimes.append(seconds)
        self._spend(STOP, seconds)
        self.used = used

    def lose_step(self) -> None:
        """Loses the step under way."""
        self._lose(math.floor(self._done + NEAR))

    def lose_state(self) -> None:
        """Has nothing left but the last checkpoint."""
        self._lose(self._saved)
        self._since_save = 0.0

    def keep(self) -> None:
        """Has a checkpoint of this moment, where it trains."""
        if self.used:
            self._saved, self._since_save = self._done, 0.0

    def _lose(self, to: float) -> None:
        self.course.lost += self._done - to
        self._done = to

    def _meet(self, instant: Instant) -> None:
        self.present = [each for each in self.present if each not in instant.removed]
        self.present += instant.added
        if instant.removed:
            self.remove(instant.removed)
        if instant.added:
            self.add(instant.added)

    def _go_on(self, until: float) -> None:
        """Trains; stands where no node has a place. A save may end a little later."""
        while self._now < until - NEAR:
            if not self.used:
                self.course.downtimes[-1] += until - self._now
                self._spend(STOP, until - self._now)
            elif self._since_save >= self.every - NEAR:
                self._spend(SAVE, self.costs.save)
                self.keep()
            else:
                self._train(until)

    def _train(self, until: float) -> None:
        """Up to the next checkpoint, to what was done before, or until then."""
        is_again = self._best - self._done > NEAR
        steps_a_second = self.used / self.task.step
        seconds = min(until - self._now, self.every - self._since_save)
        if is_again:
            seconds = min(seconds, (self._best - self._done) / steps_a_second)
            self.course.downtimes[-1] += seconds
        before, self._done = self._done, self._done + seconds * steps_a_second
        self._best = max(self._best, self._done)
        self._since_save += seconds
        self._spend(AGAIN if is_again else TRAIN, seconds, before)

    def _spend(self, kind: str, seconds: float, before: float | None = None) -> None:
        if seconds > 0:
            done = (self._done if before is None else before, self._done)
            end, present = self._now + seconds, len(self.present)
            self.course.pieces.append(Piece(self._now, end, kind, self.used, *done, present))
            self._now = end
