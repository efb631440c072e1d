"""What a job did while nodes came and went, piece by piece, and what that sums up to.

The same for jobs that were run and for jobs in virtual time.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

TRAIN, AGAIN, STOP, SAVE = "train", "again", "stop", "save"
HOUR = 3600.0


@dataclass(frozen=True)
class Piece:
    """A time in which a job does one thing.

    Attributes:
        begin: in seconds, as `end`.
        kind: ``train``, ``again`` (steps that were done before), ``stop`` or ``save``.
        used: nodes that have a place in the layout.
        done_before: steps that are done and not lost, at the begin.
        done: the same at the end.
        present: nodes that are there.
    """

    begin: float
    end: float
    kind: str
    used: int
    done_before: float
    done: float
    present: int = 0

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return self.end - self.begin

    def until(self, at: float) -> Piece:
        """The part before a moment within it."""
        return replace(self, end=at, done=self.done_at(at))

    def since(self, at: float) -> Piece:
        """The part after a moment within it."""
        return replace(self, begin=at, done_before=self.done_at(at))

    def done_at(self, at: float) -> float:
        """Steps that are done at a moment within it."""
        share = (at - self.begin) / self.seconds
        return self.done_before + share * (self.done - self.done_before)


@dataclass
class Course:
    """All pieces of a job, one after the other.

    Attributes:
        downtimes: of each change of the world the seconds until steps are done that were not done
            before.
        lost: steps that were done, and are to be done again; parts of one too.
    """

    pieces: list[Piece] = field(default_factory=list)
    downtimes: list[float] = field(default_factory=list)
    lost: float = 0.0

    @property
    def done(self) -> float:
        """Steps that are done at the end."""
        return self.pieces[-1].done

    def seconds_of(self, *kinds: str) -> float:
        """How long all pieces of these kinds take."""
        return sum(piece.seconds for piece in self.pieces if piece.kind in kinds)


@dataclass(frozen=True)
class Summary:
    """What a course comes to; ``docs/reference/json.md`` has the fields."""

    steps: float
    goal_steps: float
    seconds_to_goal: float
    ettr: float
    num_changes: int
    downtime_seconds_median: float
    downtime_seconds_p95: float
    downtime_seconds_max: float
    steps_lost: float
    gpu_hours: float
    gpu_hours_lost: float
    gpu_hours_idle: float


def summary(course: Course, goal: float) -> Summary:
    """Sums a course up; `goal` is the step to which the time is told."""
    pieces = course.pieces
    downtimes = sorted(course.downtimes) or [0.0]
    return Summary(
        course.done,
        goal,
        seconds_to(course, goal),
        course.seconds_of(TRAIN) / (pieces[-1].end - pieces[0].begin),
        len(course.downtimes),
        statistics.median(downtimes),
        downtimes[math.ceil(0.95 * len(downtimes)) - 1],
        downtimes[-1],
        course.lost,
        gpu_hours(pieces, [piece.present for piece in pieces]),
        gpu_hours(pieces, [piece.present * (piece.kind != TRAIN) for piece in pieces]),
        gpu_hours(
            pieces, [(piece.present - piece.used) * (piece.kind == TRAIN) for piece in pieces]
        ),
    )


def gpu_hours(pieces: Iterable[Piece], gpus: Iterable[int]) -> float:
    """Hours of so many GPUs in each of the pieces; a node has one."""
    return sum(piece.seconds * each for piece, each in zip(pieces, gpus, strict=True)) / HOUR


def seconds_to(course: Course, goal: float) -> float:
    """From the begin until a step is done and not lost any more; infinite where it never is."""
    begin, reached = course.pieces[0].begin, math.inf
    for piece in course.pieces:
        if piece.done < goal:
            reached = math.inf  # what was there is lost again
        elif reached == math.inf and piece.done_before >= goal:
            reached = piece.begin
        elif reached == math.inf:
            gained = (goal - piece.done_before) / (piece.done - piece.done_before)
            reached = piece.begin + gained * piece.seconds
    return reached - begin


def with_presence(
    pieces: Iterable[Piece], presence: Sequence[tuple[float, int]]
) -> Iterable[Piece]:
    """The pieces, cut where the number of nodes changes; presence is (from when on, how many)."""
    for piece in pieces:
        rest = piece
        present = max((at, each) for at, each in presence if at <= piece.begin)[1]
        for at, each in presence:
            if rest.begin < at < rest.end:
                yield replace(rest.until(at), present=present)
                rest, present = rest.since(at), each
        yield replace(rest, present=present)
