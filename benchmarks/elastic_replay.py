"""A trace in virtual time: what jobs make of it that differ in how they meet a change.

Costs go in, a course comes out; nothing runs and nothing is drawn by chance. Rules of all:

- A step is a fixed amount of work; it goes as fast as nodes train: twice the nodes, half the time.
- A node trains where the layout has a place for it; of the layouts the first is taken that fits.
- A removal with notice is known before it happens, so that the change is a planned one and no step
  is lost. Without, the node's part of the state is gone at once.
- What comes while a job stands still is met when it goes on, one after the other.
- The job begins with the nodes of the trace's first moment, at no cost.
- Where all is lost, or too few nodes are left, the job goes on from its last checkpoint.

Dynatrain  Whoever remains goes on in its process. A loss stops it as a measured kill does, and the
           step under way is lost. Nodes that are added start beside training and are then taken in
           by a planned change, where a larger layout fits. A stage is lost where all its owners go
           at once; for that case it saves a checkpoint an hour.
Restart    All processes end, and new ones load a checkpoint. A loss costs a restart and the steps
           since the checkpoint; it saves as often as Young's and Daly's formula says for the losses
           of this trace. A planned change saves first. New nodes wait for the next restart, or for
           one of their own `patience` seconds later; the best patience is found by trying all.
Replicas   The loss of a node takes its whole replica out, as where only whole replicas are known.
           The others stop as long as dynatrain's do, which is kind. What is left of replicas, and
           nodes that are added, start as a replica when they are enough for one, which is taken in
           by a planned change. It saves a checkpoint an hour, too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from elastic_course import HOUR
from elastic_traces import Instant
from elastic_virtual import Costs, Job, Task

#: Seconds that new nodes may wait for a restart of their own.
PATIENCES = (0.0, 60.0, 180.0, 300.0, 600.0, 1200.0, 1800.0, math.inf)


class Dynatrain(Job):
    """Goes on in the processes that remain."""

    def begin(self) -> None:
        """Takes the nodes that are there."""
        self._ready = list(self.present)
        self.used = self._enter()

    def _enter(self) -> int:
        """Takes its layout; the nodes of the world come first. Returns how many it uses."""
        self._replicas, self._each = self.task.layout(len(self._ready))
        self._world = self._ready[: self._replicas * self._each]
        return len(self._world)

    def remove(self, nodes: Sequence[str]) -> None:
        """Goes on without them, from the owners that remain."""
        lost = [place for place, each in enumerate(self._world) if each in nodes]
        self._ready = [each for each in self._ready if each not in nodes]
        if not lost:
            return
        if self.task.notice:
            self.change(self.costs.leave + self.costs.slowed, self._enter())
            return
        owners_gone = Counter(place % self._each for place in lost)
        if max(owners_gone.values()) == self._replicas:
            self.lose_state()
            self.change(self.costs.restart_after_kill, self._enter())
        else:
            self.lose_step()
            self.change(self.costs.kill, self._enter())

    def add(self, nodes: Sequence[str]) -> None:
        """Starts them beside training."""
        self.later(self.costs.start, lambda: self._take_in(nodes))

    def _take_in(self, nodes: Sequence[str]) -> None:
        self._ready += [each for each in nodes if each in self.present]
        if math.prod(self.task.layout(len(self._ready))) > self.used:
            self.change(self.costs.join + self.costs.slowed, self._enter())


class Restart(Job):
    """Restarts all processes from a checkpoint.

    Args:
        patience: seconds that new nodes wait for a restart of their own.
    """

    def __init__(self, task: Task, costs: Costs, every: float, patience: float) -> None:
        super().__init__(task, costs, every)
        self.patience, self._is_planned = patience, False

    def begin(self) -> None:
        """Takes the nodes that are there."""
        self.used = self._enter()

    def _enter(self) -> int:
        self._world = self.present[: math.prod(self.task.layout(len(self.present)))]
        return len(self._world)

    def remove(self, nodes: Sequence[str]) -> None:
        """Restarts with all that are there."""
        if not set(nodes) & set(self._world):
            return
        if self.task.notice:
            self._restart()
            return
        self.lose_state()
        self.change(self.costs.restart_after_kill, self._enter())

    def add(self, nodes: Sequence[str]) -> None:
        """Has them wait."""
        if not self._is_planned and self.patience < math.inf:
            self._is_planned = True
            self.later(self.patience, self._take_in)

    def _take_in(self) -> None:
        self._is_planned = False
        if math.prod(self.task.layout(len(self.present))) > self.used:
            self._restart()

    def _restart(self) -> None:
        self.keep()
        self.change(self.costs.restart, self._enter())


class Replicas(Job):
    """Knows whole replicas only."""

    def begin(self) -> None:
        """Takes the nodes that are there."""
        self._free, self._starting = list(self.present), []
        self._replicas = self._formed()
        self.used = self._size()

    def _formed(self) -> list[list[str]]:
        """As many replicas as free nodes make."""
        size = self.task.replica
        formed = [self._free[at : at + size] for at in range(0, len(self._free), size)]
        whole = [each for each in formed if len(each) == size]
        self._free = self._free[len(whole) * size :]
        return whole

    def remove(self, nodes: Sequence[str]) -> None:
        """Goes on without the replicas that they were in; their other nodes start anew."""
        gone = set(nodes)
        broken = [each for each in (*self._replicas, *self._starting) if gone & set(each)]
        was_training = any(each in self._replicas for each in broken)
        self._replicas = [each for each in self._replicas if each not in broken]
        self._starting = [each for each in self._starting if each not in broken]
        self._free = [each for each in self._free if each not in gone]
        self._free += [each for replica in broken for each in replica if each not in gone]
        if was_training:
            if not self.task.notice:
                self.lose_step()
            if not self._replicas:
                self.lose_state()
            self.change(self.costs.leave if self.task.notice else self.costs.kill, self._size())
        self._start()

    def add(self, nodes: Sequence[str]) -> None:
        """Starts a replica when there are enough."""
        self._free += nodes
        self._start()

    def _start(self) -> None:
        formed = self._formed()
        if formed:
            self._starting += formed
            self.later(self.costs.start, lambda: self._take_in(formed))

    def _take_in(self, formed: Sequence[list[str]]) -> None:
        whole = [each for each in formed if each in self._starting]
        self._starting = [each for each in self._starting if each not in whole]
        self._replicas += whole
        if whole:
            self.change(self.costs.join + self.costs.slowed, self._size())

    def _size(self) -> int:
        return len(self._replicas) * self.task.replica


def between_losses(trace: Sequence[Instant], end: float) -> float:
    """Mean seconds between two moments at which nodes go; the whole time where none does."""
    return (end - trace[0].seconds) / max(1, sum(bool(each.removed) for each in trace))


def best_restart(trace: Sequence[Instant], end: float, task: Task, costs: Costs) -> Restart:
    """The restarting job that has done most at the end, of all patiences; it has run."""
    every = HOUR if task.notice else interval(costs.save, between_losses(trace, end))
    jobs = [Restart(task, costs, every, patience) for patience in PATIENCES]
    for job in jobs:
        job.run(trace, end)
    return max(jobs, key=lambda job: job.course.done)


def layouts_of(most: int, least_each: int, most_each: int) -> list[tuple[int, int]]:
    """All of up to `most` nodes, from the largest; of equal ones first that with most replicas."""
    found = [
        (replicas, each)
        for each in range(least_each, most_each + 1)
        for replicas in range(1, most // each + 1)
    ]
    return sorted(found, key=lambda layout: (-layout[0] * layout[1], layout[1]))


def interval(save: float, between_losses: float) -> float:
    """Seconds of training between two checkpoints with which a job loses least, by Daly's formula.

    Of first order, Young's with the time of the checkpoint taken from it.
    """
    if save >= between_losses / 2:
        return between_losses
    return math.sqrt(2 * save * between_losses) - save
