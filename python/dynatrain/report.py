"""What a switch says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Span:
    """A piece of one rank's work; seconds since the call on that rank."""

    rank: int
    phase: str
    stage: int
    begin_seconds: float
    end_seconds: float
    size_bytes: int = 0


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
        build_seconds: building and materialising the target, wherever it happened.
        prepare_seconds: all of the preparation, ahead of the call when ``prepared``.
        plan_seconds: maps, plan and schedule, a part of prepare_seconds.
        bytes_moved: bytes that crossed between ranks.
        bytes_kept: bytes that stayed on their rank (adopted or copied).
        lower_bound_bytes: what any switch between these layouts must move.
        staging_peak_bytes: staging of the rank that used most.
        extra_peak_bytes: fresh target memory plus staging of the rank that used most.
        num_stages: stages of the transfer.
        traffic: (src rank, dst rank, bytes) of every pair of ranks that exchanges something.
        fingerprint_before: fingerprint of the source, None when not asked for.
        fingerprint_after: fingerprint of the target, None when not asked for.
        not_continuous: reasons why the next step is not that of an unswitched job; normally empty.
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
    bytes_moved: int = 0
    bytes_kept: int = 0
    lower_bound_bytes: int = 0
    staging_peak_bytes: int = 0
    extra_peak_bytes: int = 0
    num_stages: int = 0
    traffic: list[tuple[int, int, int]] = field(default_factory=list)
    fingerprint_before: str | None = None
    fingerprint_after: str | None = None
    not_continuous: list[str] = field(default_factory=list)
    timeline: list[Span] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``; docs/reference/json.md has the schema."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    def __str__(self) -> str:
        mark = "prepared" if self.prepared else "cold"
        text = (
            f"{self.source} -> {self.target} ({mark}): stop {self.stop_seconds * 1e3:.1f} ms, "
            f"transfer {self.transfer_seconds * 1e3:.1f} ms, "
            f"build {self.build_seconds * 1e3:.1f} ms; "
            f"moved {_mebi(self.bytes_moved)} (bound {_mebi(self.lower_bound_bytes)}), "
            f"kept {_mebi(self.bytes_kept)}; extra peak {_mebi(self.extra_peak_bytes)}"
        )
        if self.fingerprint_before is not None:
            same = "=" if self.fingerprint_before == self.fingerprint_after else "!="
            text += f"; fingerprint {self.fingerprint_before} {same} {self.fingerprint_after}"
        return text + "".join(f"; not continuous: {reason}" for reason in self.not_continuous)


@dataclass
class RankStats:
    """What one rank adds to a report."""

    stop_seconds: float
    transfer_seconds: float
    build_seconds: float
    prepare_seconds: float
    plan_seconds: float
    received_bytes: int
    kept_bytes: int
    lower_bound_bytes: int
    staging_peak_bytes: int
    extra_peak_bytes: int
    traffic: list[tuple[int, int, int]]
    timeline: list[Span]


def fill(report: SwitchReport, ranks: Sequence[RankStats]) -> None:
    """Joins the ranks' numbers: slowest rank for times, sums for bytes, largest for peaks."""
    for name in ("stop", "transfer", "build", "prepare", "plan"):
        key = f"{name}_seconds"
        setattr(report, key, max(getattr(stats, key) for stats in ranks))
    report.bytes_moved = sum(stats.received_bytes for stats in ranks)
    report.bytes_kept = sum(stats.kept_bytes for stats in ranks)
    report.lower_bound_bytes = sum(stats.lower_bound_bytes for stats in ranks)
    report.staging_peak_bytes = max(stats.staging_peak_bytes for stats in ranks)
    report.extra_peak_bytes = max(stats.extra_peak_bytes for stats in ranks)
    report.traffic = [pair for stats in ranks for pair in stats.traffic]
    report.timeline = [span for stats in ranks for span in stats.timeline]


def _mebi(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.2f} MiB"
