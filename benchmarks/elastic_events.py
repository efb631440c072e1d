"""Single events, run and measured: dynatrain, torchrun with a checkpoint, and plain switches."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dynatrain import _native
from dynatrain.report import SCHEMA_VERSION
from elastic import records, restarts, story
from elastic.processes import Process, wait_until
from elastic.records import Happened, Step
from elastic.restarts import Due
from elastic.story import KINDS, LAYOUTS, Training
from elastic_restarts import Torchrun, end

CYCLE = ("join", "kill", "join", "leave", "idle", "return")
EVENTS = {"idle": "resize", "return": "resize"}
SIZE = 3
#: The coordinator's, where nothing else is said.
TIMEOUT_S = 60.0
#: Phases of a switch in which it makes ready what could have been ready before.
OF_PREPARATION = ("world", "build", "plan")


@dataclass(frozen=True)
class Sample:
    """One event as it came; seconds.

    Attributes:
        stop: from the end of the last step before to the begin of the first one after.
        goes_on: from the event itself to that begin.
        starts: from the event to the begin of the preparation.
        prepares: from there to the stop.
        prepare: the preparation, as the switch reports it.
        inside: the part of it that lies within the stop.
        slowdown: of the steps while it is prepared.
        lost: steps that are done again.
        switch: the stop that the switch reports.
        save: of the checkpoint before a restart.
    """

    stop: float
    lost: float
    goes_on: float = 0.0
    starts: float = 0.0
    prepares: float = 0.0
    prepare: float = 0.0
    inside: float = 0.0
    slowdown: float = 1.0
    switch: float = 0.0
    save: float = 0.0


@dataclass(frozen=True)
class Key:
    """What samples have in common."""

    event: str
    contender: str
    source: str
    target: str


@dataclass(frozen=True)
class Row:
    """One event, contender and pair of layouts; the schema of the JSON output."""

    schema_version: int
    event: str
    contender: str
    source: str
    target: str
    runs: int
    stop_seconds: float
    stop_seconds_min: float
    stop_seconds_first: float
    goes_on_seconds: float
    deadline_seconds: float
    start_seconds: float
    preparing_seconds: float
    prepare_seconds: float
    prepare_inside_seconds: float
    prepare_slowdown: float
    steps_lost: float
    switch_seconds: float
    plain_switch_seconds: float
    save_seconds: float


Samples = dict[Key, list[list[Sample]]]


class Events:
    """Runs all events with all contenders, in turn, and keeps what came of it.

    Args:
        folder: for what processes write.
        training: of all jobs.
        apart: steps between two events.
        every: steps between two checkpoints of the restarting job.
        tell: is told each command.
    """

    def __init__(
        self, folder: Path, pace_s: float, apart: int, every: int, tell: Callable[[str], None]
    ) -> None:
        self.folder, self.apart, self.every, self.tell = folder, apart, every, tell
        self.training = Training(10_000, pace_s, SIZE)
        self.samples: Samples = defaultdict(list)
        self.plain: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.runs = 0

    def run(self) -> None:
        """Has every event happen to a job of each contender."""
        folder = self.folder / f"run-{self.runs}"
        self.runs += 1
        (folder / "elastic").mkdir(parents=True)
        kinds = [KINDS[name] for name in CYCLE]
        events, said = story.run(folder / "elastic", self.training, kinds, self.apart, self.tell)
        steps = records.joined(said)
        history = records.happened(events, records.stops(steps))
        self._keep("dynatrain", history, [elastic_sample(each, steps, said) for each in history])
        due = [Due(each, self.apart * (number + 1)) for number, each in enumerate(events)]
        until = self.apart * (len(due) + 1)
        launcher = Torchrun(folder / "restart", self.training, until, self.every)
        said = restarts.run(launcher, due, self.tell)
        changes = records.stops(records.joined(said))
        usual = [restart_sample(each, said) for each in changes]
        self._keep("restart", history, usual)
        self._run_plain(folder)

    def _keep(self, contender: str, history: Sequence[Happened], samples: Sequence[Sample]) -> None:
        of_this_run: dict[Key, list[Sample]] = defaultdict(list)
        for each, sample in zip(history, samples, strict=True):
            name = each.event.kind.name
            ends = each.stops[0].source.layout, each.stops[-1].target.layout
            of_this_run[Key(EVENTS.get(name, name), contender, *ends)].append(sample)
        for key, these in of_this_run.items():
            self.samples[key].append(these)

    def _run_plain(self, folder: Path) -> None:
        sizes = [SIZE]
        for name in CYCLE:
            sizes.append(sizes[-1] + KINDS[name].more)
        layouts = [LAYOUTS[size] for size in sizes]
        self.tell(f"the same layouts with all processes there: {' '.join(layouts)}")
        command = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4")
        script = str(Path(__file__).with_name("elastic_plain.py"))
        arguments = (script, "--apart", str(max(4, self.apart)), *layouts)
        process = Process(folder / "plain.jsonl", *command, *arguments)
        try:
            wait_until(lambda: not process.is_running(), "the plain switches")
        finally:
            end(process)
        if process.child.returncode:
            raise RuntimeError(process.errors())
        for stop in records.stops(records.joined(process.hear())):
            self.plain[stop.source.layout, stop.target.layout].append(stop.end - stop.begin)

    def rows(self) -> list[Row]:
        """Sums the samples up; the first run is in no other number where there are more."""
        return [self._row(key, runs) for key, runs in self.samples.items()]

    def _row(self, key: Key, runs: Sequence[Sequence[Sample]]) -> Row:
        rest = [sample for run in (runs[1:] or runs) for sample in run]

        def median(of: str) -> float:
            return statistics.median(getattr(sample, of) for sample in rest)

        is_ours = key.contender == "dynatrain"
        plain = self.plain[key.source, key.target]
        lost_after_ms = _native.membership_deadlines(int(1000 * TIMEOUT_S))["lost_after_ms"]
        return Row(
            SCHEMA_VERSION,
            **vars(key),
            runs=len(runs),
            stop_seconds=median("stop"),
            stop_seconds_min=min(sample.stop for sample in rest),
            stop_seconds_first=runs[0][0].stop,
            goes_on_seconds=median("goes_on"),
            deadline_seconds=lost_after_ms / 1000 if is_ours and key.event == "kill" else 0.0,
            start_seconds=median("starts"),
            preparing_seconds=median("prepares"),
            prepare_seconds=median("prepare"),
            prepare_inside_seconds=median("inside"),
            prepare_slowdown=median("slowdown"),
            steps_lost=median("lost"),
            switch_seconds=median("switch"),
            plain_switch_seconds=statistics.median(plain) if is_ours else 0.0,
            save_seconds=median("save"),
        )


def elastic_sample(
    happened: Happened, steps: Sequence[Step], said: Sequence[dict[str, Any]]
) -> Sample:
    """What an event has cost a job of dynatrain, from what its members have said."""
    asked, begin, end = happened.event.asked, happened.stops[-1].begin, happened.stops[-1].end
    told = [each["at"] for each in said if each["kind"] == "event" and each["what"] == "preparing"]
    preparing = min((at for at in told if asked <= at <= begin), default=begin)
    epoch = happened.stops[-1].target.epoch
    report = next(each for each in said if each["kind"] == "switch" and each["epoch"] == epoch)
    is_loss = happened.event.kind.is_loss
    inside = report["prepare_seconds"] if is_loss else inside_of(report)
    return Sample(
        stop=happened.stop_seconds,
        lost=happened.repeated_steps,
        goes_on=end - asked,
        starts=max(0.0, preparing - asked),
        prepares=max(0.0, begin - preparing),
        prepare=report["prepare_seconds"],
        inside=inside,
        slowdown=slowdown(steps, said, (asked, preparing, begin)),
        switch=report["stop_seconds"],
    )


def inside_of(report: dict[str, Any]) -> float:
    """Seconds of preparation within the stop, of the slowest rank."""
    of_rank: dict[int, float] = defaultdict(float)
    for span in report["timeline"]:
        if span["phase"] in OF_PREPARATION:
            of_rank[span["rank"]] += span["end_seconds"] - span["begin_seconds"]
    return max(of_rank.values(), default=0.0)


def slowdown(
    steps: Sequence[Step], said: Iterable[dict[str, Any]], times: tuple[float, float, float]
) -> float:
    """By how much steps take longer while a change is prepared than they did before the event.

    Without the pause that ends a step, with what comes between it and the next one.
    """
    asked, preparing, stop = times
    busy: dict[tuple[int, int], float] = {}
    for each in said:
        if each["kind"] == "step":
            place = each["epoch"], each["step"]
            busy[place] = max(busy.get(place, 0.0), each["busy"])
    before, beside = [], []
    for step, following in pairwise(steps):
        if following.epoch == step.epoch:
            seconds = busy[step.epoch, step.number] + following.begin - step.end
            if step.end <= asked:
                before.append((step.epoch, seconds))
            elif preparing <= step.begin and following.begin <= stop:
                beside.append(seconds)
    last = [seconds for epoch, seconds in before if epoch == before[-1][0]]
    if not last or not beside:
        return 1.0
    return max(1.0, statistics.median(beside) / statistics.median(last))


def restart_sample(stop: records.Stop, said: Iterable[dict[str, Any]]) -> Sample:
    """What an event has cost a job that is restarted."""
    saves = [each for each in said if each["kind"] == "save"]
    within = [
        each["end"] - each["begin"] for each in saves if stop.begin - 1 < each["begin"] < stop.end
    ]
    seconds = stop.end - stop.begin
    return Sample(seconds, stop.repeated_steps, goes_on=seconds, save=max(within, default=0.0))
