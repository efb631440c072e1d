"""A target that stands beside the source: its memory is taken, and runs wait for its bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from dynatrain import _native, words
from dynatrain._errors import DeviceError, is_out_of_memory
from dynatrain.generation.engine import Engine, Side
from dynatrain.generation.held import Source
from dynatrain.generation.lanes import DEVICE
from dynatrain.report import PreparedSwitch, RankStats, Span, of_all_ranks
from dynatrain.switch.blueprint import Blueprint, LaneMoves, draw
from dynatrain.switch.budget import check_budget, no_memory
from dynatrain.switch.called import Called
from dynatrain.switch.clock import Clock
from dynatrain.switch.room import Room, check_fit, latest
from dynatrain.switch.route import Route, staging_of
from dynatrain.switch.streams import bytes_ahead, streams_of
from dynatrain.switch.ways import Way, ways_of

_log = logging.getLogger("dynatrain.session")
#: How CUDA names it in the text of a DeviceError.
_OUT_OF_MEMORY = "cudaErrorMemoryAllocation"
words.record(RankStats)
#: Says which other places of a target are better, seen from the way to it; None where none are.
Relabel = Callable[[Blueprint], Called | None]


@dataclass(frozen=True)
class Standing:
    """A target with memory, and what is to run into it, once.

    Attributes:
        blueprint: what it was made from.
        source: this rank's tensors in the source, as they were read last.
        target: its tensors in the target.
        routes: one for each lane, or two where some of it is read in place and some is not, or
            where it is handed on.
        fresh_bytes: memory that was taken for the target.
        of_all: bytes and peaks of all ranks.
        build_seconds: the user's build, the target's memory and its runs.
        plan_seconds: maps, slots and plan, exchanges included.
        prepare_seconds: all of the preparation.
        boundary_seconds: what it took of the training thread, of one that was prepared beside it.
        spans: of the preparation.
    """

    blueprint: Blueprint
    source: Side
    target: Side
    routes: Sequence[Route]
    fresh_bytes: int
    of_all: RankStats = field(default_factory=RankStats)
    build_seconds: float = 0.0
    plan_seconds: float = 0.0
    prepare_seconds: float = 0.0
    boundary_seconds: float = 0.0
    spans: Sequence[Span] = ()

    @property
    def streamed_bytes(self) -> int:
        """What source and target hold together at most beyond the source, where it is freed."""
        streams = (route.streaming for route in self.routes)
        return sum(each.peak_bytes - each.source_bytes for each in streams if each is not None)

    @property
    def table_bytes(self) -> int:
        """Device memory of the descriptions of copies."""
        return sum(route.run.table_bytes for route in self.routes if route.run is not None)

    @property
    def staging_bytes(self) -> int:
        """Staging that is taken: what is read in place needs none."""
        return staging_of([route for route in self.routes if not route.one_sided])

    @property
    def in_place_bytes(self) -> int:
        """What this rank reads where it lies."""
        return sum(route.moves.plan.received_bytes for route in self.routes if route.one_sided)

    @property
    def held_bytes(self) -> int:
        """Memory that this rank holds for the target, until it is switched to or dropped."""
        return self.fresh_bytes + self.staging_bytes + self.table_bytes

    def told(self) -> PreparedSwitch:
        """What the script is told of it."""
        called, of_all = self.blueprint.called, self.of_all
        return PreparedSwitch(
            str(called.source.layout),
            str(called.layout),
            of_all.received_bytes,
            of_all.kept_bytes,
            of_all.lower_bound_bytes,
            of_all.staging_peak_bytes,
            of_all.extra_peak_bytes,
            sum(route.schedule.num_stages for route in self.routes),
            self.held_bytes,
            self.blueprint.mode,
        )

    def refreshed(self, engine: Engine, state: Source) -> Standing | None:
        """The same with the source read again; None when its tensors are not those of the runs."""
        names, apart = self.blueprint.called.names, self.blueprint.apart
        source = engine.read(state, names, apart)
        table, planned = source.table, self.blueprint.source.table
        if table is not planned and table.signature() != planned.signature():
            return None
        return replace(self, source=source)


def prepare(
    engine: Engine,
    state: Source,
    called: Called,
    clock: Clock,
    relabel: Relabel = lambda _: None,
) -> Standing:
    """Builds the target, plans the way to it and takes its memory. Collective.

    Four exchanges; where ranks are relabelled those of another world and three more.

    Args:
        engine: of the job.
        state: what this rank brings, None when it idles.
        called: what all ranks called for.
        clock: started with the preparation.
        relabel: told of the way there, may say that other places of the same target are better.
    """
    blueprint = draw(engine, state, called, clock)
    with clock.phase("world"):
        better = relabel(blueprint)
    if better is not None:
        blueprint = draw(engine, state, better, clock)
    with clock.phase("build"):
        standing = _stand(engine, blueprint)
    return replace(
        standing,
        plan_seconds=clock.seconds("plan"),
        build_seconds=clock.seconds("build"),
        prepare_seconds=clock.now(),
        spans=clock.spans,
    )


def _stand(engine: Engine, blueprint: Blueprint) -> Standing:
    """Takes the memory of a blueprint and makes its runs. Collective.

    One exchange, one more where the source is streamed, and two more where a lane reads its peers'
    memory in place. When it fails, memory and runs go with the last who names them; the lanes
    stand, but where the exchange of plan hashes failed or peers' memory is mapped: then this rank
    makes them anew before the next call.
    """
    routes = _routes_of_all(engine, blueprint) if blueprint.streams else None
    standing = _agreed(engine, "taking memory", lambda: _with_memory(engine, blueprint, routes))
    if blueprint.streams and engine.options.memory_budget_bytes is None:
        # Before the vote: what lacks behind it takes the state with it.
        needed = standing.streamed_bytes
        engine.joined("taking memory", lambda: Room.of(engine, needed), check_fit)
    if all(route.run is not None for route in standing.routes):
        return standing
    try:
        table = standing.source.table
        ways = [ways_of(engine, blueprint, table, route.moves) for route in standing.routes]
        return _agreed(engine, "taking staging memory", lambda: _by_ways(engine, standing, ways))
    except Exception:
        engine.generation.disconnect("peers' memory could not be mapped")
        raise


def _agreed(engine: Engine, phase: str, work: Callable[[], Standing]) -> Standing:
    """What ``work`` makes, with the bytes and peaks of all ranks. Collective."""
    made: list[Standing] = []

    def stats() -> RankStats:
        made.append(work())
        plan = made[0].blueprint.plan
        return RankStats(
            received_bytes=plan.received_bytes,
            kept_bytes=plan.kept_bytes,
            lower_bound_bytes=plan.lower_bound_bytes,
            staging_peak_bytes=made[0].staging_bytes,
            extra_peak_bytes=made[0].held_bytes + made[0].streamed_bytes,
        )

    of_all = engine.joined(phase, stats, of_all_ranks)
    return replace(made[0], of_all=of_all)


def _routes(blueprint: Blueprint) -> list[Route]:
    return [
        Route(moves, schedule)
        for moves, schedule in zip(blueprint.by_lane, blueprint.schedules(), strict=True)
    ]


def _routes_of_all(engine: Engine, blueprint: Blueprint) -> list[Route]:
    """Routes with what all ranks read of their sources, and when last. Collective."""
    routes: list[Route] = []

    def read() -> dict[str, bytes]:
        routes.extend(_routes(blueprint))
        source_map = blueprint.source_map
        return {r.moves.lane: _native.last_reads(r.schedule, source_map) for r in routes}

    of_all = engine.joined("cutting the plan", read, latest)
    return [replace(route, last_reads=of_all[route.moves.lane]) for route in routes]


def _with_memory(engine: Engine, blueprint: Blueprint, routes: list[Route] | None) -> Standing:
    """The target with its memory, and runs of all lanes that need nothing of their peers."""
    _agree_on_pairs(engine, blueprint)  # first: nobody waits for a rank that lacks memory
    routes = _routes(blueprint) if routes is None else routes
    staging = staging_of(routes)
    fresh = 0
    if not blueprint.streams:
        fresh = blueprint.missing_bytes(engine)
        check_budget(engine.rank, fresh + staging, engine.options)
    if fresh:
        _native.trim_heap()  # here and not when a state is freed: a prepared switch waits for none
    target = engine.at_boundary(lambda: _materialized(engine, blueprint, fresh, staging))
    standing = Standing(blueprint, blueprint.source, target, routes, fresh)
    if blueprint.streams:
        taken = routes
        streams = engine.at_boundary(lambda: streams_of(engine, blueprint, target, taken))
        routes = [replace(r, streaming=each) for r, each in zip(routes, streams, strict=True)]
        fresh = bytes_ahead(blueprint.source, target)
        return _with_runs(engine, replace(standing, routes=routes, fresh_bytes=fresh))
    if any(engine.lanes[route.moves.lane].reads_in_place for route in routes):
        return standing
    return _with_runs(engine, standing)


def _agree_on_pairs(engine: Engine, blueprint: Blueprint) -> None:
    seconds = engine.options.timeout.total_seconds()
    with engine.lanes_end_with_an_error("the exchange of plan hashes failed"):
        for moves in blueprint.by_lane:
            engine.lanes[moves.lane].executor.agree(moves.plan, seconds)


def _materialized(engine: Engine, blueprint: Blueprint, fresh: int, staging: int) -> Side:
    inventory, source = blueprint.target.inventory, blueprint.source.inventory
    if inventory is None:
        return blueprint.target
    try:
        adopted = blueprint.adopted(engine)
        with blueprint.called.entered():
            streamed = blueprint.streams
            made = engine.adapter.materialize(inventory, source, adopted, streamed=streamed)
            return Side.of(made)
    except Exception as error:
        if is_out_of_memory(error):
            needed = fresh or blueprint.missing_bytes(engine)
            raise no_memory(engine.rank, needed, staging, error) from error
        raise


def _by_ways(engine: Engine, standing: Standing, ways: Sequence[Sequence[Way]]) -> Standing:
    """The same with runs of the ways that each lane's moves take."""
    routes = [
        Route(way.moves, _schedule_of(standing.blueprint, route, way.moves), way.one_sided)
        for route, of_lane in zip(standing.routes, ways, strict=True)
        for way in of_lane
    ]
    return _with_runs(engine, replace(standing, routes=routes))


def _schedule_of(blueprint: Blueprint, route: Route, moves: LaneMoves) -> _native.Schedule:
    return route.schedule if moves is route.moves else blueprint.schedule_of(moves)


def _with_runs(engine: Engine, standing: Standing) -> Standing:
    made = replace(standing, routes=[_with_run(engine, standing, each) for each in standing.routes])
    fresh = made.fresh_bytes + made.streamed_bytes
    needed = fresh + made.staging_bytes + made.table_bytes
    check_budget(engine.rank, needed, engine.options)
    return made


def _with_run(engine: Engine, standing: Standing, route: Route) -> Route:
    """Makes the run of a lane, bound to the tensors that stand now.

    A GPU gives memory at a boundary alone: beside training it would wait for what runs there.
    """
    if route.moves.lane == DEVICE:
        return engine.at_boundary(lambda: _bound(engine, standing, route))
    return _bound(engine, standing, route)


def _bound(engine: Engine, standing: Standing, route: Route) -> Route:
    try:
        return replace(route, run=_prepared_run(engine, standing, route))
    except DeviceError as error:
        # Mapped sources are used up by the first attempt, and mapping is collective.
        if route.one_sided or _OUT_OF_MEMORY not in str(error):
            raise
    _log.info("torch's cached memory makes room for staging")
    torch.cuda.empty_cache()
    return replace(route, run=_prepared_run(engine, standing, route))


def _prepared_run(engine: Engine, standing: Standing, route: Route) -> _native.PreparedRun:
    return engine.lanes[route.moves.lane].executor.prepare(
        route.moves.plan,
        route.schedule,
        *route.moves.maps,
        standing.target.table if route.moves.is_handed_on else standing.source.table,
        standing.target.table,
        engine.options.timeout.total_seconds(),
        "sums" in engine.options.verify,
        route.one_sided,
        route.streaming,
    )
