"""What a switch says of itself."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dynatrain._errors import LayoutError

SCHEMA_VERSION = 1
#: Phases whose spans overlap; a rank goes through all others one after another, see Clock.phase.
_OVERLAPPING = ("pack", "wire", "unpack", "local", "verify")
_PARITY = ("even", "odd")
#: Source rank, destination rank, bytes.
PAIR = struct.Struct("<qqq")


@dataclass(frozen=True)
class Span:
    """A piece of one rank's work; seconds since the call on that rank.

    Attributes:
        rank: whose work it is.
        phase: what it did; docs/reference/json.md lists the phases.
        stage: stage of the transfer that it belongs to, 0 outside of the transfer.
        begin_seconds: its beginning.
        end_seconds: its end.
        size_bytes: bytes that it moved, 0 where it moved none.
        stream: the copier's stream on the GPU that it ran on, counted from 0; -1 for none.
    """

    rank: int
    phase: str
    stage: int
    begin_seconds: float
    end_seconds: float
    size_bytes: int = 0
    stream: int = -1


@dataclass
class SwitchReport:
    """One switch: times of the slowest rank, bytes of all ranks together.

    Attributes:
        source: text form of the layout before, empty for none.
        target: text form of the layout after.
        epoch: number of the new world.
        step: completed steps at the switch.
        prepared: whether the target was prepared ahead.
        stop_seconds: from the call until the slowest rank has installed the new state; only the
            exchange of these numbers comes after.
        transfer_seconds: from the first pack to the last unpack.
        build_seconds: building and materialising the target, but for what boundary_seconds has.
        prepare_seconds: all of the preparation, ahead of the call when ``prepared``; beside
            training (of an elastic job) it waits for the ends of steps as well.
        plan_seconds: maps of all ranks, slots of the target and the plan, with two exchanges and
            the waits for the slowest rank in them, a part of prepare_seconds.
        boundary_seconds: what a preparation beside training took of the training thread between
            two steps, a part of prepare_seconds; training has lost it ahead of the stop.
        bytes_moved: bytes that crossed between ranks.
        bytes_in_place: those of them that ranks of one machine read where they lay; all others went
            by messages.
        bytes_kept: bytes that stayed on their rank (adopted or copied).
        lower_bound_bytes: what any switch between these places of the layouts must move.
        relabel_saved_bytes: what the places of the target leave unmoved that natural order would
            not, as it was found when the two worlds met first; 0 where ranks are in that order.
        staging_peak_bytes: staging of the rank that used most.
        extra_peak_bytes: fresh target memory, staging and tables of copies of the rank that used
            most.
        num_stages: stages of the transfer.
        mode: ``retain``, or ``stream`` where the source was freed while the target arrived.
        traffic: (src rank, dst rank, bytes) of every pair of ranks that exchanges something.
        fingerprint_before: fingerprint of the source, None when not asked for.
        fingerprint_after: fingerprint of the target, None when not asked for.
        not_continuous: reasons why the next step is not that of an unswitched job; normally empty.
        reseeded_streams: names of random streams that differed between ranks and were seeded anew
            for their new places, such as ``torch.cpu``.
        timeline: spans of all ranks.
    """

    source: str
    target: str
    epoch: int
    step: int
    prepared: bool
    stop_seconds: float = 0.0
    transfer_seconds: float = 0.0
    build_seconds: float = 0.0
    prepare_seconds: float = 0.0
    plan_seconds: float = 0.0
    boundary_seconds: float = 0.0
    bytes_moved: int = 0
    bytes_in_place: int = 0
    bytes_kept: int = 0
    lower_bound_bytes: int = 0
    relabel_saved_bytes: int = 0
    staging_peak_bytes: int = 0
    extra_peak_bytes: int = 0
    num_stages: int = 0
    mode: str = "retain"
    traffic: list[tuple[int, int, int]] = field(default_factory=list)
    fingerprint_before: str | None = None
    fingerprint_after: str | None = None
    not_continuous: list[str] = field(default_factory=list)
    reseeded_streams: list[str] = field(default_factory=list)
    timeline: list[Span] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``; docs/reference/json.md has the schema."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Writes the timeline for Perfetto or chrome://tracing; a process there is a rank here.

        docs/reference/json.md has the schema. Raises OSError when the file cannot be written.
        """
        data = self.to_json()
        ranks = sorted({span.rank for span in self.timeline})
        num_streams = 1 + max((span.stream for span in self.timeline), default=-1)
        names = [event for rank in ranks for event in _lane_names(rank, num_streams)]
        spans = [_trace_event(span) for span in _without_overlap(self.timeline)]
        trace = {
            "schema_version": SCHEMA_VERSION,
            "displayTimeUnit": "ms",
            "otherData": {key: value for key, value in data.items() if key != "timeline"},
            "traceEvents": names + spans,
        }
        Path(path).write_text(json.dumps(trace))

    def __str__(self) -> str:
        mark, built = "cold", f"build {self.build_seconds * 1e3:.1f} ms"
        if self.prepared:  # outside of the stop, and often longer than it
            mark, built = f"prepared ahead in {self.prepare_seconds * 1e3:.1f} ms, {built}", ""
        text = (
            f"{self.source} -> {self.target} ({mark}): stop {self.stop_seconds * 1e3:.1f} ms, "
            f"transfer {self.transfer_seconds * 1e3:.1f} ms{built and f', {built}'}; "
            f"moved {_mebi(self.bytes_moved)} (bound {_mebi(self.lower_bound_bytes)}), "
            f"{self._by_ways()}kept {_mebi(self.bytes_kept)}; "
            f"extra peak {_mebi(self.extra_peak_bytes)}{_streamed(self.mode)}"
        )
        if self.fingerprint_before is not None:
            same = "=" if self.fingerprint_before == self.fingerprint_after else "!="
            text += f"; fingerprint {self.fingerprint_before} {same} {self.fingerprint_after}"
        return text + "".join(f"; not continuous: {reason}" for reason in self.not_continuous)

    def _by_ways(self) -> str:
        """What went which way, where any of it was read in place."""
        if not self.bytes_in_place:
            return ""
        sent = self.bytes_moved - self.bytes_in_place
        return f"{_mebi(self.bytes_in_place)} in place and {_mebi(sent)} by messages, "


def _streamed(mode: str) -> str:
    return ", streamed" if mode == "stream" else ""


class SwitchFuture(Future[SwitchReport]):
    """Tells how a switch went that the training thread makes at a boundary of its loop.

    That thread, which has asked for it, cannot wait here until it is done.
    """

    def __init__(self) -> None:
        super().__init__()
        self._trainer = threading.get_ident()

    def result(self, timeout: float | None = None) -> SwitchReport:
        """The report; raises LayoutError where the thread that trains would wait for ever."""
        self._check_can_wait("result()", timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error, or None; raises LayoutError where :meth:`result` does."""
        self._check_can_wait("exception()", timeout)
        return super().exception(timeout)

    def _check_can_wait(self, call: str, timeout: float | None) -> None:
        if timeout is None and not self.done() and threading.get_ident() == self._trainer:
            raise LayoutError(
                f"session: {call} of a requested switch, in the thread that trains\n"
                "  expected it to be done: the switch is made by this thread, when the loop over "
                "session.steps() comes to its next boundary\n"
                "  nothing was changed; the request stands\n"
                "  ask future.done() in a later step, or give add_done_callback() what to do; "
                "session.switch() is the form that waits"
            )


@dataclass(frozen=True)
class PreparedSwitch:
    """What ``session.prepare`` has made ready; all but ``held_bytes`` is equal on all ranks.

    How long the switch will stop training is not known ahead.

    Attributes:
        source: text form of the present layout.
        target: text form of the layout that is prepared.
        bytes_moved: bytes that the switch will send between ranks, of all ranks together.
        bytes_kept: bytes that will stay on their rank, of all ranks together.
        lower_bound_bytes: what any switch between these places of the layouts must move.
        staging_peak_bytes: staging of the rank that uses most.
        extra_peak_bytes: what the rank that holds most has beside its source: fresh target memory,
            staging and tables of copies.
        num_stages: stages of the transfer.
        held_bytes: what this rank holds of it from now on, until the switch or another ``prepare``.
        mode: ``retain``, or ``stream`` where the source is to be freed while the target arrives.
    """

    source: str
    target: str
    bytes_moved: int
    bytes_kept: int
    lower_bound_bytes: int
    staging_peak_bytes: int
    extra_peak_bytes: int
    num_stages: int
    held_bytes: int
    mode: str = "retain"

    def __str__(self) -> str:
        return (
            f"{self.source} -> {self.target} prepared: will move {_mebi(self.bytes_moved)} "
            f"(bound {_mebi(self.lower_bound_bytes)}), keep {_mebi(self.bytes_kept)}; "
            f"extra peak {_mebi(self.extra_peak_bytes)}{_streamed(self.mode)}, "
            f"held here {_mebi(self.held_bytes)}"
        )


#: The phases of one rank's spans, one on each line, and the numbers of each span.
PackedSpans = tuple[str, bytes]
_SPAN = struct.Struct("<qqddqq")


def pack_spans(spans: Sequence[Span]) -> PackedSpans:
    """Spans in few pieces, as ranks tell each other."""
    numbers = [
        _SPAN.pack(s.rank, s.stage, s.begin_seconds, s.end_seconds, s.size_bytes, s.stream)
        for s in spans
    ]
    return "\n".join(span.phase for span in spans), b"".join(numbers)


def unpack_spans(packed: PackedSpans) -> list[Span]:
    """The spans that :func:`pack_spans` was given."""
    phases, numbers = packed
    each = zip(phases.split("\n"), _SPAN.iter_unpack(numbers), strict=False)
    return [Span(rank, phase, *others) for phase, (rank, *others) in each]


@dataclass
class RankStats:
    """What one rank adds to a report, or several together.

    Attributes:
        traffic: source, destination and bytes of each pair, by ``PAIR``.
        timeline: the spans of each rank.
        raised: what kept objects raised when the switch was done, in words.
    """

    stop_seconds: float = 0.0
    transfer_seconds: float = 0.0
    build_seconds: float = 0.0
    prepare_seconds: float = 0.0
    plan_seconds: float = 0.0
    boundary_seconds: float = 0.0
    received_bytes: int = 0
    in_place_bytes: int = 0
    kept_bytes: int = 0
    lower_bound_bytes: int = 0
    staging_peak_bytes: int = 0
    extra_peak_bytes: int = 0
    traffic: bytes = b""
    timeline: list[PackedSpans] = field(default_factory=list)
    not_continuous: list[str] = field(default_factory=list)
    reseeded_streams: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)


def of_all_ranks(ranks: Sequence[RankStats]) -> RankStats:
    """The ranks' numbers: slowest rank for times, sums for bytes, largest for peaks."""
    streams = {name: None for stats in ranks for name in stats.reseeded_streams}
    return RankStats(
        max(stats.stop_seconds for stats in ranks),
        max(stats.transfer_seconds for stats in ranks),
        max(stats.build_seconds for stats in ranks),
        max(stats.prepare_seconds for stats in ranks),
        max(stats.plan_seconds for stats in ranks),
        max(stats.boundary_seconds for stats in ranks),
        sum(stats.received_bytes for stats in ranks),
        sum(stats.in_place_bytes for stats in ranks),
        sum(stats.kept_bytes for stats in ranks),
        sum(stats.lower_bound_bytes for stats in ranks),
        max(stats.staging_peak_bytes for stats in ranks),
        max(stats.extra_peak_bytes for stats in ranks),
        b"".join(stats.traffic for stats in ranks),
        [packed for stats in ranks for packed in stats.timeline],
        _said_by([stats.not_continuous for stats in ranks]),
        list(streams),
        _said_by([stats.raised for stats in ranks]),
    )


def _said_by(reasons: Sequence[Sequence[str]]) -> list[str]:
    """Each reason once, with the ranks that gave it where others did not."""
    found: dict[str, list[int]] = {}
    for rank, of_rank in enumerate(reasons):
        for reason in of_rank:
            found.setdefault(reason, []).append(rank)
    return [_on_ranks(reason, ranks, len(reasons)) for reason, ranks in found.items()]


def _on_ranks(reason: str, ranks: Sequence[int], num_ranks: int) -> str:
    """A reason with the ranks that gave it, where others did not."""
    if len(ranks) == num_ranks:
        return reason
    others = "" if len(ranks) == 1 else f" and {len(ranks) - 1} more"
    return f"rank {ranks[0]}{others}: {reason}"


def fill(report: SwitchReport, of_all: RankStats) -> None:
    """Puts the numbers of all ranks into a report."""
    for name in ("stop", "transfer", "build", "prepare", "plan", "boundary"):
        key = f"{name}_seconds"
        setattr(report, key, getattr(of_all, key))
    report.bytes_moved = of_all.received_bytes
    report.bytes_in_place = of_all.in_place_bytes
    report.bytes_kept = of_all.kept_bytes
    report.lower_bound_bytes = of_all.lower_bound_bytes
    report.staging_peak_bytes = of_all.staging_peak_bytes
    report.extra_peak_bytes = of_all.extra_peak_bytes
    report.not_continuous = of_all.not_continuous + of_all.raised
    report.reseeded_streams = of_all.reseeded_streams
    report.traffic = list(PAIR.iter_unpack(of_all.traffic))
    report.timeline = [span for packed in of_all.timeline for span in unpack_spans(packed)]


def _lane(span: Span) -> int:
    """Where a span is drawn: spans of one lane must not overlap, and two stages are in flight.

    What runs on one stream runs in order, so each stream has a lane.
    """
    if span.phase not in _OVERLAPPING:
        return 0
    if span.stream >= 0:
        return 1 + 2 * len(_OVERLAPPING) + span.stream
    return 1 + 2 * _OVERLAPPING.index(span.phase) + span.stage % 2


def _without_overlap(spans: Sequence[Span]) -> list[Span]:
    """Ends each span where the next one of its lane begins, at the latest.

    The end of a wire span is when the watching thread saw it, a little late.
    """
    ordered = sorted(spans, key=lambda span: (span.rank, _lane(span), span.begin_seconds))
    cut = []
    for span, following in zip_longest(ordered, ordered[1:]):
        end = span.end_seconds
        if following and (span.rank, _lane(span)) == (following.rank, _lane(following)):
            end = min(end, following.begin_seconds)
        cut.append(replace(span, end_seconds=end))
    return cut


def _lane_names(rank: int, num_streams: int) -> list[dict[str, Any]]:
    lanes = ["steps"] + [f"{phase}, {kind} stages" for phase in _OVERLAPPING for kind in _PARITY]
    lanes += [f"copy stream {stream}" for stream in range(num_streams)]
    names = [("process_name", 0, f"rank {rank}")]
    names += [("thread_name", number, name) for number, name in enumerate(lanes)]
    return [
        {"name": kind, "ph": "M", "pid": rank, "tid": lane, "args": {"name": name}}
        for kind, lane, name in names
    ]


def _trace_event(span: Span) -> dict[str, Any]:
    return {
        "name": f"{span.phase} {span.stage}" if _lane(span) else span.phase,
        "cat": span.phase,
        "ph": "X",
        "ts": span.begin_seconds * 1e6,
        "dur": (span.end_seconds - span.begin_seconds) * 1e6,
        "pid": span.rank,
        "tid": _lane(span),
        "args": {"stage": span.stage, "size_bytes": span.size_bytes, "stream": span.stream},
    }


def _mebi(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.2f} MiB"
