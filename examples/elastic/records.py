"""What the processes of a run have said, joined to one history of its steps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from dynatrain import Layout

from .story import Event


@dataclass(frozen=True)
class Step:
    """One step, as all its ranks have done it; times in seconds of the monotonic clock."""

    number: int
    epoch: int
    layout: str
    loss: float
    begin: float
    end: float

    @property
    def world_size(self) -> int:
        """How many processes have done it."""
        return Layout.parse(self.layout).world_size


@dataclass(frozen=True)
class Stop:
    """Between the last step in one world and the first one in the next.

    Attributes:
        begin: end of the last step.
        end: begin of the next one.
        regained: begin of the first step that no former world has done; later than `end` where
            steps are done again.
        repeated_steps: how many are done again.
    """

    source: Step
    target: Step
    begin: float
    end: float
    regained: float
    repeated_steps: int


def joined(said: Iterable[dict[str, Any]]) -> list[Step]:
    """One step for each number and epoch of which all ranks have said it, in order of time."""
    shares: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for each in (one for one in said if one["kind"] == "step"):
        shares.setdefault((each["epoch"], each["step"]), []).append(each)
    steps = []
    for (epoch, number), each in sorted(shares.items()):
        begin, end = min(one["begin"] for one in each), max(one["end"] for one in each)
        layout = str(each[0]["layout"])
        if len(each) == Layout.parse(layout).world_size:
            steps.append(Step(number, epoch, layout, float(each[0]["loss"]), begin, end))
    return steps


def losses(steps: Sequence[Step]) -> list[float]:
    """The loss of each step, where it was done last."""
    last = {step.number: step.loss for step in steps}
    return [loss for _, loss in sorted(last.items())]


def stops(steps: Sequence[Step]) -> list[Stop]:
    """Every change of the world, in order."""
    found = []
    for source, target in pairwise(steps):
        if source.epoch != target.epoch:
            new = [s for s in steps if s.epoch >= target.epoch and s.number > source.number]
            repeated = max(0, source.number + 1 - target.number)
            regained = new[0].begin if new else steps[-1].end
            found.append(Stop(source, target, source.end, target.begin, regained, repeated))
    return found


@dataclass(frozen=True)
class Happened:
    """An event, and the stops of a run for its sake; several where it came in parts."""

    event: Event
    stops: Sequence[Stop]

    @property
    def step(self) -> int:
        """The last step before the world was what the event leads to."""
        return self.stops[-1].source.number

    @property
    def stop_seconds(self) -> float:
        """How long nobody trained."""
        return sum(stop.end - stop.begin for stop in self.stops)

    @property
    def lost_seconds(self) -> float:
        """How long no step was done that had not been done before."""
        return sum(stop.regained - stop.begin for stop in self.stops)

    @property
    def repeated_steps(self) -> int:
        """How many steps were done again."""
        return sum(stop.repeated_steps for stop in self.stops)

    def to_json(self) -> dict[str, Any]:
        """As the summary has it."""
        names = ("stop_seconds", "lost_seconds", "repeated_steps")
        return {name: getattr(self, name) for name in names}


def happened(events: Sequence[Event], changes: Sequence[Stop]) -> list[Happened]:
    """For each event the stops between it and the next one."""
    ends = [*(event.asked for event in events[1:]), float("inf")]
    return [
        Happened(event, [stop for stop in changes if event.asked <= stop.end < end])
        for event, end in zip(events, ends, strict=True)
    ]
