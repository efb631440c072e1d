"""The switch itself, once its target stands: check, move, vote, install."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from dynatrain.adapters.port import Adapter, Published
from dynatrain.generation.control import attempt
from dynatrain.generation.engine import Engine
from dynatrain.given import described
from dynatrain.report import PAIR, RankStats, SwitchReport, fill, of_all_ranks, pack_spans
from dynatrain.switch.clock import Clock
from dynatrain.switch.decided import Vote, decide
from dynatrain.switch.moved import Moved, Transfer
from dynatrain.switch.present import Present
from dynatrain.switch.questions import check_replicas
from dynatrain.switch.standing import Standing

_log = logging.getLogger("dynatrain.session")


@dataclass(frozen=True)
class Telling:
    """What a switch is told into.

    Attributes:
        report: of the switch.
        clock: started with the call.
        after: closed when the call has ended on this rank: what waits until then.
        not_continuous: what did not go on, in words.
        reseeded_streams: random streams that were seeded anew, by name.
        raised: what kept objects raised on this rank, in words.
    """

    report: SwitchReport
    clock: Clock
    after: ExitStack
    not_continuous: list[str] = field(default_factory=list)
    reseeded_streams: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)


def run(
    engine: Engine, vote: Vote, present: Present, standing: Standing, telling: Telling
) -> list[BaseException]:
    """Moves the state into the prepared target and installs it. Collective.

    Signals wait from the exchange before the vote to the end of the call, for twice the session's
    deadline and what the script's own code takes: what a handler raises would leave this rank
    between two worlds, or the others in the vote.

    Returns:
        What kept objects raised after the vote, when the switch had happened already.

    Raises:
        LayoutError: replicas differ, or the target does not take what is no tensor.
        TransportError: a peer failed, or another state arrived than was moved. In all cases the
            source is as it was, but where it was being freed already: LostStateError then, and the
            rank is undecided, or in the new world without a state.
    """
    report, clock = telling.report, telling.clock
    if "replicas" in engine.options.verify:
        with clock.phase("replicas"):
            check_replicas(engine, standing.blueprint.source_map, standing.source)
    target = standing.blueprint.called.seats
    left, _ = attempt(lambda: _left_behind(engine, standing))  # the others are in the next exchange
    transfer = Transfer(engine, standing, clock, recovers=vote.rescue is not None)
    transfer.read(lambda: present.kept_states(target))
    streams = standing.blueprint.streams
    if streams:
        transfer.agree(telling.after)
    else:
        transfer.move(telling.after)
    with clock.phase("commit"):
        joined = present.world is None
        decide(engine.adapter, vote, present, standing, transfer if streams else None)
        moved = transfer.moved
        errors, anew = _follow(engine.adapter, present, moved.published, report.step, joined=joined)
    report.fingerprint_before = report.fingerprint_after = moved.fingerprint
    told = replace(
        telling,
        reseeded_streams=anew,
        not_continuous=left or [],
        raised=[
            f"the kept object {name!r} raised {described(error)}" for name, error in errors.items()
        ],
    )
    _tell(engine, standing, moved, told)
    return list(errors.values())


def _left_behind(engine: Engine, standing: Standing) -> list[str]:
    source = standing.source.inventory
    if source is None:
        return []
    return engine.adapter.left_behind(source, standing.target.inventory)


def _follow(
    adapter: Adapter[Any], present: Present, published: Published, step: int, *, joined: bool
) -> tuple[dict[str, BaseException], list[str]]:
    """Takes kept objects and random streams to the new world.

    Returns what the former raised, and which of the latter were seeded anew.
    """
    errors, anew = present.move_kept(published if joined else None), []
    if present.world is not None:
        anew = adapter.continue_streams(published, present.seed, present.world.rank, step)
    return errors, anew


def _tell(engine: Engine, standing: Standing, moved: Moved, telling: Telling) -> None:
    """Joins the numbers of all ranks into the report. Collective.

    The switch has happened: a rank that fails here takes its numbers with it, and nothing else. A
    rank that does not hear of the others' then reports its own.
    """
    report = telling.report
    try:
        stats = _own_numbers(engine, standing, moved, telling)
        report.mode = standing.blueprint.mode
        report.relabel_saved_bytes = standing.blueprint.called.relabel_saved_bytes
        report.num_stages = sum(route.schedule.num_stages for route in standing.routes)
        try:
            stats = engine.control.agree("the report", None, stats, of_all_ranks)
        except Exception as error:  # noqa: BLE001 - no number is worth the job
            _log.warning("the switch is done, but its report is this rank's alone: %s", error)
        fill(report, stats)
        if stats.raised and not telling.raised:  # else this rank raises it
            _warn_of_raised(report.target, stats.raised)
        if engine.rank == 0:  # it is in every layout, and all ranks have the same report
            _log.info("%s", report)
    except Exception as error:  # noqa: BLE001 - as above, and the others need not wait for it
        engine.generation.release("this rank could not tell its numbers")
        _log.warning("the switch is done, but this rank has no numbers of it: %s", error)


def _warn_of_raised(target: str, raised: Sequence[str]) -> None:
    """Says what other ranks raise, which nobody else hears of before a wait for them ends."""
    _log.warning(
        "the switch to %s is done, but %s\n"
        "  expected on_world() and load_state_dict() of kept objects to raise on no rank\n"
        "  the state is whole on all ranks; that object may not have followed, and the error is "
        "raised there behind the switch\n"
        "  catch it around the call and mend the object there; where that ends the process, others "
        "wait for it until their deadline: start the job from its last checkpoint",
        target,
        "; ".join(raised),
    )


def _own_numbers(engine: Engine, standing: Standing, moved: Moved, telling: Telling) -> RankStats:
    clock, plan = telling.clock, standing.blueprint.plan
    clock.spans += moved.spans
    return RankStats(
        stop_seconds=clock.now(),
        transfer_seconds=moved.seconds,
        build_seconds=standing.build_seconds,
        prepare_seconds=standing.prepare_seconds,
        plan_seconds=standing.plan_seconds,
        boundary_seconds=standing.boundary_seconds,
        received_bytes=plan.received_bytes,
        in_place_bytes=standing.in_place_bytes,
        kept_bytes=plan.kept_bytes,
        lower_bound_bytes=plan.lower_bound_bytes,
        staging_peak_bytes=moved.staging_peak_bytes,
        extra_peak_bytes=standing.fresh_bytes
        + standing.streamed_bytes
        + moved.staging_peak_bytes
        + standing.table_bytes,
        traffic=_traffic(engine.rank, standing),
        timeline=[pack_spans(clock.spans)],
        not_continuous=telling.not_continuous,
        reseeded_streams=telling.reseeded_streams,
        raised=telling.raised,
    )


def _traffic(rank: int, standing: Standing) -> bytes:
    """What this rank sends to each peer, by all lanes and passes."""
    sent: dict[int, int] = {}
    for moves in standing.blueprint.by_lane:
        for peer, _, size, _ in moves.plan.sends():
            sent[peer] = sent.get(peer, 0) + size
    return b"".join(PAIR.pack(rank, peer, size) for peer, size in sorted(sent.items()))


def tell_script(
    callbacks: Sequence[Callable[[SwitchReport], None]],
    report: SwitchReport,
    errors: list[BaseException],
    rank: int,
) -> SwitchReport:
    """Tells the script's callbacks on ``rank``; raises the first error of its code, as it was.

    One that is to end the process, as SystemExit is, comes before others.
    """
    for callback in callbacks:
        try:
            callback(report)
        except BaseException as error:  # noqa: BLE001 - the user's code, after the switch
            errors.append(error)
    if errors:
        what = "; ".join(described(error) for error in errors)
        _log.error(
            "rank %d: the switch to %s is done; code of the script raised: %s\n"
            "  expected kept objects and callbacks of on_switch to raise on no rank\n"
            "  the state is whole on all ranks, and others go on; what raised may not follow\n"
            "  catch the error around the call and mend that object on this rank, or end the job "
            "and start it from its last checkpoint",
            rank,
            report.target,
            what,
        )
        raise min(errors, key=lambda error: isinstance(error, Exception))
    return report
