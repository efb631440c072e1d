"""The switch itself, once its target stands: check, move, vote, install."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dynatrain._errors import LayoutError, TransportError
from dynatrain.adapters.port import Published
from dynatrain.calls import Call, Calls
from dynatrain.engine import Clock, Engine
from dynatrain.given import described
from dynatrain.layout import Layout
from dynatrain.questions import check_replicas
from dynatrain.report import RankStats, SwitchReport, fill
from dynatrain.train_state import Stateful, TrainState
from dynatrain.transfer import Moved, transfer
from dynatrain.transition import Prepared
from dynatrain.world import World

_log = logging.getLogger("dynatrain.session")


@dataclass
class Present:
    """What a rank is now: its place, its state, and what it keeps across switches.

    ``world`` and ``state`` are None on a rank that idles.
    """

    seed: int
    layout: Layout | None = None
    world: World | None = None
    state: TrainState | None = None
    epoch: int = 0
    keep: dict[str, Any] = field(default_factory=dict)

    def install(self, layout: Layout, world: World | None, state: TrainState | None) -> None:
        """Takes another place; ``world`` belongs to this epoch alone."""
        self.layout = layout
        self.state = state
        self.world = world

    def kept_states(self, target: Layout) -> dict[str, Any]:
        """State of kept objects, for ranks that join; nobody asks for it otherwise."""
        assert self.layout is not None
        if self.world is None or target.world_size <= self.layout.world_size:
            return {}
        return {
            f"keep.{name}": _asked_of(name, item)
            for name, item in self.keep.items()
            if isinstance(item, Stateful) and getattr(item, "per_rank", None) is not True
        }

    def move_kept(self, published: Published | None = None) -> list[Exception]:
        """Tells kept objects of the world; with what was published, they catch up first.

        Returns what they raised: each is told, whatever another one does.
        """
        errors: list[Exception] = []
        for name, item in self.keep.items():
            states = () if published is None else published.shared.get(f"keep.{name}", ())
            try:
                if states:
                    item.load_state_dict(states[0].value)
                if hasattr(item, "on_world"):
                    item.on_world(self.world)
            except Exception as error:  # noqa: BLE001 - the user's code, after the vote
                errors.append(error)
        return errors


def _asked_of(name: str, item: Stateful) -> Any:
    try:
        return item.state_dict()
    except Exception as error:
        raise LayoutError(
            f"session: state_dict() of the kept object {name!r} raised {described(error)}\n"
            "  expected it to work: a rank that idled catches up by it\n"
            "  nothing was moved; the source state is intact\n"
            "  give it per_rank = True as an attribute if no rank needs to catch up"
        ) from error


@dataclass(frozen=True)
class Telling:
    """What a switch is told into."""

    report: SwitchReport
    clock: Clock
    not_continuous: list[str] = field(default_factory=list)


def run(
    engine: Engine, calls: Calls, present: Present, prepared: Prepared, telling: Telling
) -> list[Exception]:
    """Moves the state into the prepared target and installs it. Collective.

    Returns:
        What kept objects raised after the vote, when the switch had happened already.

    Raises:
        LayoutError: replicas differ, or the target does not take what is no tensor.
        TransportError: a peer failed. Either way the source is as it was.
    """
    report, clock = telling.report, telling.clock
    if "replicas" in engine.options.verify:
        with clock.phase("replicas"):
            check_replicas(engine, prepared.source_map, prepared.source)
    target = prepared.request.layout
    moved = transfer(engine, prepared, lambda: present.kept_states(target), clock)
    report.fingerprint_before = report.fingerprint_after = moved.fingerprint
    with clock.phase("commit"):
        errors = _commit(engine, calls, present, prepared, moved)
        if present.world is not None:
            rank, step = present.world.rank, report.step
            engine.adapter.continue_streams(moved.published, present.seed, rank, step)
    reasons = [f"a kept object raised {described(error)}" for error in errors]
    _tell(engine, prepared, moved, replace(telling, not_continuous=reasons))
    return errors


def _commit(
    engine: Engine, calls: Calls, present: Present, prepared: Prepared, moved: Moved
) -> list[Exception]:
    """Votes, then installs the target; after the vote only the user's callbacks can fail."""
    layout = prepared.request.layout
    calls.meet(Call("commit", str(layout), present.epoch, True, True))
    former, place, joined = present.state, present.world, present.world is None
    present.epoch += 1
    present.install(layout, prepared.request.world, prepared.target.state)
    engine.adapter.retire(former, prepared.target.inventory, str(layout))
    if place is not None:
        place.retire(str(layout))
    return present.move_kept(moved.published if joined else None)


def _tell(engine: Engine, prepared: Prepared, moved: Moved, telling: Telling) -> None:
    """Joins the numbers of all ranks into the report. Collective.

    The switch has happened: a rank that dies here takes its numbers with it, and nothing else.
    """
    report, clock = telling.report, telling.clock
    clock.spans += moved.spans
    stats = RankStats(
        stop_seconds=clock.now(),
        transfer_seconds=moved.seconds,
        build_seconds=prepared.build_seconds,
        prepare_seconds=prepared.prepare_seconds,
        plan_seconds=prepared.plan_seconds,
        received_bytes=prepared.plan.received_bytes,
        kept_bytes=prepared.plan.kept_bytes,
        lower_bound_bytes=prepared.plan.lower_bound_bytes,
        staging_peak_bytes=moved.staging_peak_bytes,
        extra_peak_bytes=prepared.fresh_bytes + moved.staging_peak_bytes + prepared.table_bytes,
        traffic=[(engine.rank, peer, size) for peer, _, size, _ in prepared.plan.sends()],
        timeline=clock.spans,
        not_continuous=telling.not_continuous,
    )
    report.num_stages = sum(route.schedule.num_stages for route in prepared.routes)
    try:
        ranks = engine.control.gather(stats, "the report")
    except TransportError as error:
        _log.warning("the switch is done, but its report is this rank's alone: %s", error)
        ranks = [stats]
    fill(report, ranks)
    _log.info("%s", report)


def tell_script(
    callbacks: Sequence[Callable[[SwitchReport], None]],
    report: SwitchReport,
    errors: list[Exception],
) -> SwitchReport:
    """Tells the script's callbacks; raises the first error of its code, as it was raised."""
    for callback in callbacks:
        try:
            callback(report)
        except Exception as error:  # noqa: BLE001 - the user's code, after the switch
            errors.append(error)
    if errors:
        _log.error("the switch to %s is done, but %d callbacks raised", report.target, len(errors))
        raise errors[0]
    return report
