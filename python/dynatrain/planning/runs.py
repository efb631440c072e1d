"""The schedules of all ranks of a described switch in virtual time, and what they hold then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dynatrain import _native
from dynatrain._errors import BudgetError
from dynatrain.planning.passes import Maps, Pass
from dynatrain.planning.report import MemoryPoint, StagePrediction
from dynatrain.planning.topologies import Topology
from dynatrain.switch.room import STREAM, options_of_mode

_MAX_STAGES = 1 << 20


@dataclass
class Runs:
    """A switch in virtual time, pass by pass.

    Attributes:
        links: over which.
        by_pass: the run of each pass; a rank begins one where its last one has ended.
        num_stages: of all passes together.
        staging_bytes: by rank, what it takes of staging at most.
        held_bytes: by rank, what it holds of source and target in each stage of a switch that
            streams; empty where the source is retained.
        peak_bytes: by rank, the most that it holds of these.
        ends: by rank, seconds until it has ended.
    """

    links: Topology
    by_pass: list[_native.VirtualRun] = field(default_factory=list)
    num_stages: int = 0
    staging_bytes: list[int] = field(default_factory=list)
    held_bytes: list[list[int]] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def timeline(self, rank: int) -> list[StagePrediction]:
        """When a rank does what, in all passes."""
        return [
            StagePrediction(*(self.links.switch_seconds + second for second in stage))
            for run in self.by_pass
            for stage in run.times_of(rank)
        ]

    def memory(self, rank: int) -> list[MemoryPoint]:
        """What a rank holds over time, staging included."""
        begin, staging = self.links.switch_seconds, self.staging_bytes[rank]
        if not self.held_bytes:
            return [MemoryPoint(begin, self.peak_bytes[rank] + staging)]
        return [
            MemoryPoint(stage.pack_begin, held + staging)
            for stage, held in zip(self.timeline(rank), self.held_bytes[rank], strict=True)
        ]


def run_in_virtual_time(
    maps: Maps, passes: Sequence[Pass], links: Topology, budget_bytes: int, mode: str
) -> Runs:
    """Cuts the plans of all ranks into stages as a mode asks, and runs them.

    Raises:
        BudgetError: a stage cannot be cut as small as the budget asks, or there are too many.
    """
    options = options_of_mode(mode, budget_bytes)
    runs = Runs(links, staging_bytes=[0] * maps.num_ranks)
    for each in passes:
        num_stages = _num_stages(each.plans, options)
        begins = runs.by_pass[-1].end_of_rank() if runs.by_pass else []
        run = _native.VirtualRun(maps.nodes, links.native, begins)
        last_reads = []
        for plan in each.plans:
            schedule = _schedule(each, plan, num_stages, options)
            run.add(plan, schedule, each.target)
            needed = schedule.staging_peak_bytes
            if needed > runs.staging_bytes[plan.rank]:  # else it has that of the pass before
                runs.staging_bytes[plan.rank] += needed
            if mode == STREAM:
                last_reads.append(_native.last_reads(schedule, each.source))
        runs.by_pass.append(run)
        runs.num_stages += num_stages
        if mode == STREAM:
            of_all = _native.largest_last_reads(last_reads)
            for plan in each.plans:  # cut again: all of them at once would take more memory
                schedule = _schedule(each, plan, num_stages, options)
                held, peak = _native.held_by_stage(plan, schedule, each.source, each.target, of_all)
                runs.held_bytes.append(held)
                runs.peak_bytes.append(peak)
    runs.ends = [links.switch_seconds + end for end in runs.by_pass[-1].end_of_rank()]
    if mode != STREAM:
        runs.peak_bytes = [
            maps.source.bytes_of_rank(plan.rank)
            + maps.target.bytes_of_rank(plan.rank)
            - plan.adoptable_bytes
            for plan in passes[0].plans
        ]
    return runs


def _schedule(
    of_pass: Pass, plan: _native.Plan, num_stages: int, options: _native.ScheduleOptions
) -> _native.Schedule:
    return _native.make_schedule(plan, of_pass.source, of_pass.target, num_stages, options)


def _num_stages(plans: Sequence[_native.Plan], options: _native.ScheduleOptions) -> int:
    stages = max(_native.num_stages_wanted(plan, options) for plan in plans)
    if stages > _MAX_STAGES:
        raise BudgetError(
            f"plan: {stages} stages are needed under a staging budget of "
            f"{options.staging_budget_bytes} bytes\n"
            f"  expected at most {_MAX_STAGES}\n"
            "  nothing was planned\n  raise the staging budget, or plan a smaller model"
        )
    return stages
