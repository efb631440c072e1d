"""A trace for real: processes come and go as its nodes do, with time compressed.

A node that is added is a process that is started. One that is removed is a process, drawn by a
seed and killed by SIGKILL; with a notice it is told by SIGTERM at that moment, and killed when the
notice has run out. Where those drawn alone hold a part of the state, others are drawn: what nobody
holds is gone.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from dynatrain import Layout
from elastic import records, story
from elastic.processes import Process
from elastic.records import Step
from elastic.story import Training
from elastic_course import AGAIN, SAVE, STOP, TRAIN, Course, Piece, with_presence
from elastic_restarts import Torchrun

#: By number of processes, from the one that is wanted most. Whoever is lost, others hold the same.
LAYOUTS = {
    6: "dp=2,dp_replicate=3",
    4: "dp=2,dp_replicate=2",
    3: "dp_replicate=3",
    2: "dp_replicate=2",
    1: "dp=1",
}
MOST = max(LAYOUTS)
POLL_S = 0.05
NUM_STEPS = 100_000


@dataclass(frozen=True)
class Script:
    """What is to happen to both jobs.

    Attributes:
        moments: (seconds, processes that are there from then on), from 0 on.
        end: seconds.
        notice_s: between SIGTERM and SIGKILL; 0 for no SIGTERM.
        pace_s: least time of a step.
        seed: of the processes that go.
    """

    moments: Sequence[tuple[float, int]]
    end: float
    notice_s: float
    pace_s: float
    seed: int = 0

    def number_at(self, seconds: float) -> int:
        """Processes that are there."""
        return [number for at, number in self.moments if at <= seconds][-1]

    @property
    def training(self) -> Training:
        """As all processes take it."""
        return Training(NUM_STEPS, self.pace_s, self.moments[0][1])

    @property
    def between_losses(self) -> float:
        """Mean seconds between two moments at which processes go."""
        numbers = [number for _, number in self.moments]
        losses = sum(after < before for before, after in pairwise(numbers))
        return self.end / max(1, losses)


def layout_of(number: int) -> str:
    """The first layout for which so many processes are enough."""
    return next(layout for size, layout in LAYOUTS.items() if size <= number)


class Elastic:
    """The trace, for a job of dynatrain."""

    def __init__(self, script: Script, folder: Path, tell: Callable[[str], None]) -> None:
        folder.mkdir(parents=True)
        self.script = script
        self.job = story.Job(folder, script.training, tell, LAYOUTS)
        self._draw = random.Random(script.seed)
        self._told: list[tuple[float, Process]] = []

    def run(self) -> Course:
        """Has all happen; returns what the job did."""
        script, job = self.script, self.job
        try:
            job.start(script.moments[0][1])
            job.await_steps(layout_of(script.moments[0][1]), 1)
            zero = time.monotonic()
            moments = list(script.moments[1:])
            while (now := time.monotonic() - zero) < script.end:
                while moments and moments[0][0] <= now:
                    self._become(moments.pop(0)[1])
                self._take(now_s=time.monotonic())
                time.sleep(POLL_S)
        finally:
            job.kill()
        said = [each for member in job.members for each in member.hear()]
        return course_of(said, script, zero)

    def _become(self, number: int) -> None:
        """Starts or takes processes until so many are there."""
        there = self._there()
        if number > len(there):
            self.job.start(number - len(there))
        elif number < len(there):
            for victim in self._victims(len(there) - number):
                self.job.tell(f"$ kill -{'TERM' if self.script.notice_s else 'KILL'} (a process)")
                if self.script.notice_s:
                    victim.child.send_signal(signal.SIGTERM)
                    self._told.append((time.monotonic() + self.script.notice_s, victim))
                else:
                    victim.kill()

    def _there(self) -> list[Process]:
        told = [process for _, process in self._told]
        return [each for each in self.job.members if each.is_running() and each not in told]

    def _victims(self, number: int) -> list[Process]:
        while True:
            drawn = self._draw.sample(self._there(), number)
            if self._leave_owners(drawn):
                return drawn

    def _leave_owners(self, victims: Sequence[Process]) -> bool:
        """Whether every shard has an owner without them; ranks of one shard are `shards` apart."""
        layout, ranks = self.job.now().get("layout"), self.job.ranks()
        if layout is None or len(ranks) < Layout.parse(layout).world_size:
            return True  # a change is under way
        shards = Layout.parse(layout).dp_shard
        left = {rank % shards for rank, process in ranks.items() if process not in victims}
        return len(left) == shards

    def _take(self, now_s: float) -> None:
        """Kills those whose notice has run out."""
        for at, process in self._told:
            if at <= now_s:
                process.kill()
        self._told = [each for each in self._told if each[0] > now_s]


class Restarted:
    """The trace, for a job that is restarted by torchrun.

    Args:
        every: steps between two checkpoints.
    """

    def __init__(
        self, script: Script, folder: Path, every: int, tell: Callable[[str], None]
    ) -> None:
        self.script, self.tell = script, tell
        self.launcher = Torchrun(folder, script.training, NUM_STEPS, every)
        self._draw = random.Random(script.seed)

    def run(self) -> Course:
        """Has all happen; returns what the job did."""
        script, launcher = self.script, self.launcher
        number = script.moments[0][1]
        try:
            self._start(number)
            zero = time.monotonic()
            while (now := time.monotonic() - zero) < script.end:
                launcher.check()
                wanted = script.number_at(now)
                if wanted != number:
                    self._become(number, wanted)
                    number = wanted
                time.sleep(POLL_S)
        finally:
            launcher.kill()
        return course_of(launcher.said(), script, zero)

    def _start(self, number: int) -> None:
        layout = layout_of(number)
        self.tell(f"$ torchrun --nproc-per-node {Layout.parse(layout).world_size}   # {layout}")
        self.launcher.start(layout, Layout.parse(layout).world_size)
        self.launcher.await_step(0)

    def _become(self, before: int, number: int) -> None:
        """Restarts where a process of the world goes, or a larger layout fits."""
        used = Layout.parse(layout_of(before)).world_size
        gone = self._draw.sample(range(before), max(0, before - number))
        if any(each < used for each in gone) and not self.script.notice_s:
            self.tell("$ kill -KILL (a process)")
            self.launcher.lose_one()
        elif layout_of(number) != layout_of(before):
            self.launcher.stop()
        else:
            return
        self._start(number)


def course_of(said: Sequence[dict[str, Any]], script: Script, zero: float) -> Course:
    """What a job did, from what its processes have said; from its first step to the end."""
    end = zero + script.end
    steps = [step for step in records.joined(said) if zero <= step.end <= end]
    stops = records.stops(steps)
    saves = sorted(each["begin"] for each in said if each["kind"] == "save")
    begin = steps[0].begin
    presence = [(begin, script.moments[0][1])]
    presence += [(zero + at, number) for at, number in script.moments[1:]]
    return Course(
        list(with_presence(pieces_of(steps, saves, end), presence)),
        [stop.regained - stop.begin for stop in stops],
        sum(stop.repeated_steps for stop in stops),
    )


def pieces_of(steps: Sequence[Step], saves: Sequence[float], end: float) -> list[Piece]:
    """Steps and what lies between them, joined where it is the same."""
    pieces: list[Piece] = []
    best = 0
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        kind = AGAIN if step.number < best else TRAIN
        best = max(best, step.number + 1)
        goes_on = following is not None and following.epoch == step.epoch
        until = following.begin if following is not None else max(step.end, end)
        pause = gap_kind(step, until, saves, goes_on=goes_on)
        trained = until if pause is None else step.end
        place = step.world_size, float(step.number), step.number + 1.0
        pieces.append(Piece(step.begin, trained, kind, *place))
        if pause is not None:
            pieces.append(Piece(step.end, until, pause, step.world_size, place[2], place[2]))
    return merged(pieces)


def gap_kind(step: Step, until: float, saves: Sequence[float], *, goes_on: bool) -> str | None:
    """What comes behind a step: a save, a stop, or None for the next step."""
    if not goes_on:
        return STOP if until > step.end else None
    return SAVE if any(step.end - POLL_S < save < until for save in saves) else None


def merged(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces of one kind and world, one after the other, as one."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last and (last.kind, last.used, last.end) == (piece.kind, piece.used, piece.begin):
            joined[-1] = replace(last, end=piece.end, done=piece.done)
        else:
            joined.append(piece)
    return joined
