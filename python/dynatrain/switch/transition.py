"""From one world to the next: prepare a target beside the source, move the state, hand it over.

Every function here is collective over all ranks of the job, idle ones included. A phase that fails
on one rank fails on all, with the source untouched.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from dynatrain import _native
from dynatrain._errors import DeviceError, LayoutError, is_out_of_memory
from dynatrain.adapters.port import Slots
from dynatrain.generation.engine import Clock, Engine, Side
from dynatrain.generation.lanes import DEVICE, HOST
from dynatrain.generation.world import Build, World
from dynatrain.layout import Layout
from dynatrain.report import Span
from dynatrain.switch.budget import check_budget, no_memory
from dynatrain.switch.fingerprints import Counted
from dynatrain.switch.renames import check_new_names, check_old_names
from dynatrain.train_state import TrainState

_T = TypeVar("_T")
_log = logging.getLogger("dynatrain.session")
#: how CUDA names it in the text of a DeviceError
_OUT_OF_MEMORY = "cudaErrorMemoryAllocation"


@dataclass(frozen=True)
class Request:
    """What a preparation is for.

    Attributes:
        layout: the target.
        world: this rank's place in the target, None when it idles there.
        build: the user's build.
        names: new names of source tensors, by FQN.
    """

    layout: Layout
    world: World | None
    build: Build
    names: Mapping[str, str]


@dataclass(frozen=True)
class Route:
    """What one lane moves in a switch.

    Attributes:
        lane: name of the lane.
        plan: its part of the plan.
        schedule: the stages of that part.
        one_sided: whether receivers read in place, without staging.
        run: what is left to run, once the memory was taken.
    """

    lane: str
    plan: _native.Plan
    schedule: _native.Schedule
    one_sided: bool = False
    run: _native.PreparedRun | None = None


@dataclass
class Prepared:
    """A target that stands beside the source and waits for its bytes.

    Attributes:
        apart: further FQNs of tied parameters that are named, as one side alone ties them.
        counted: how source and target are counted for a fingerprint; None when none is asked for.
    """

    request: Request
    source: Side
    target: Side
    source_map: _native.ShardMap
    target_map: _native.ShardMap
    plan: _native.Plan
    routes: list[Route]
    apart: frozenset[str] = frozenset()
    counted: tuple[Counted, Counted] | None = None
    fresh_bytes: int = 0
    build_seconds: float = 0.0
    plan_seconds: float = 0.0
    prepare_seconds: float = 0.0
    spans: list[Span] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._signature = self.source.table.signature()

    @property
    def staging_peak_bytes(self) -> int:
        """Staging of all lanes together."""
        return sum(route.schedule.staging_peak_bytes for route in self.routes)

    @property
    def table_bytes(self) -> int:
        """Device memory of the descriptions of copies; 0 before the runs are made."""
        return sum(route.run.table_bytes for route in self.routes if route.run is not None)

    def refresh(self, engine: Engine, state: TrainState | None) -> bool:
        """Reads the source again; False when its tensors are not those that were planned for."""
        self.source = engine.read(state, self.request.names, self.apart)
        return self.source.table.signature() == self._signature


def prepare(engine: Engine, state: TrainState | None, request: Request, clock: Clock) -> Prepared:
    """Builds the target, plans the way to it and takes its memory. Collective.

    ``state`` is the present state of this rank, None when it idles; ``clock`` was started with the
    preparation.
    """
    prepared = blueprint(engine, state, request, clock)
    with clock.phase("build"):
        engine.together("taking memory", lambda: _take_memory(engine, prepared))
        _agree_on_pairs(engine, prepared)
    prepared.plan_seconds = clock.seconds("plan")
    prepared.build_seconds = clock.seconds("build")
    prepared.prepare_seconds = clock.now()
    prepared.spans = clock.spans
    return prepared


def blueprint(
    engine: Engine,
    state: TrainState | None,
    request: Request,
    clock: Clock,
    built: TrainState | None = None,
) -> Prepared:
    """Builds the target on meta and plans the way to it; takes no memory. Collective.

    ``built`` is what build has made on meta before, if it has.
    """
    with clock.phase("build"):
        check_old_names(engine, state, request.names)
        made, apart, tied = _built(engine, state, request, built)
        namings = [apart]
        if "fingerprint" in engine.options.verify and tied != apart:
            namings.append(tied)  # their maps travel with those of the switch
        sources = engine.together(
            "reading the state",
            lambda: [engine.read(state, request.names, each) for each in namings],
        )
    with clock.phase("plan"):
        source_maps = engine.publish_maps(sources)
        inventory = sources[0].inventory
        notes = _union(engine, frozenset() if inventory is None else inventory.slot_notes())
        slots = Slots(source_maps[0], notes)
        targets = engine.together(
            "build", lambda: _with_slots(engine, made, sources[0], slots, namings)
        )
        target_maps = engine.publish_maps(targets)
        check_new_names(target_maps[0], request.names)
        plan = _plan(engine, source_maps[0], target_maps[0])
        prepared = Prepared(
            request, sources[0], targets[0], source_maps[0], target_maps[0], plan, [], apart
        )
        prepared.routes = _routes(engine, prepared)
        if "fingerprint" in engine.options.verify:
            prepared.counted = (
                Counted(source_maps[-1], tied, request.names),
                Counted(target_maps[-1], tied),
            )
    return prepared


def _built(
    engine: Engine, state: TrainState | None, request: Request, built: TrainState | None
) -> tuple[TrainState | None, frozenset[str], frozenset[str]]:
    """The target on meta, and the further FQNs that only one side ties, and any. Collective."""
    made: list[TrainState | None] = []

    def build() -> tuple[frozenset[str], frozenset[str]]:
        made.append(built or build_on_meta(engine, request))
        source = frozenset() if state is None else engine.adapter.ties(state, request.names)
        return source, frozenset() if made[0] is None else engine.adapter.ties(made[0])

    ties = engine.gathered("build", build)
    in_source = frozenset().union(*(source for source, _ in ties))
    in_target = frozenset().union(*(target for _, target in ties))
    return made[0], in_source ^ in_target, in_source | in_target


def build_on_meta(engine: Engine, request: Request) -> TrainState | None:
    """What the user's build makes without memory for this rank's place; None where it idles."""
    world = request.world
    if world is None:
        return None
    return engine.adapter.build_on_meta(lambda: request.build(world), str(world))


def _union(engine: Engine, mine: Set[_T]) -> frozenset[_T]:
    """What is in the set of any rank. Collective."""
    return frozenset().union(*engine.control.gather(mine, "planning"))


def _with_slots(
    engine: Engine,
    built: TrainState | None,
    source: Side,
    slots: Slots,
    namings: Sequence[frozenset[str]],
) -> list[Side]:
    """The target with its slots, read once for each naming: further FQNs that are named, too."""
    if source.inventory is not None:
        engine.adapter.check_alike(source.inventory, slots)
        if built is not None:
            engine.adapter.check_apart(built, source.inventory.state)
    if built is not None:
        engine.adapter.make_slots(built, slots)
    return [engine.read(built, None, each) for each in namings]


def _plan(
    engine: Engine, source_map: _native.ShardMap, target_map: _native.ShardMap
) -> _native.Plan:
    plans: list[_native.Plan] = []

    def derive() -> tuple[int, int]:
        source_map.prove_coverage()
        _check_same_tensors(engine, source_map, target_map)
        plans.append(_native.make_plan(source_map, target_map, engine.rank, engine.node_of_rank))
        return source_map.hash(), target_map.hash()

    answers = engine.gathered("planning", derive)
    if len(set(answers)) != 1:
        raise LayoutError(
            f"plan: the ranks hold different shard maps: {answers}\n"
            "  nothing was moved; the source state is intact\n"
            "  every rank must run the same build and the same version of dynatrain"
        )
    return plans[0]


def _check_same_tensors(
    engine: Engine, source_map: _native.ShardMap, target_map: _native.ShardMap
) -> None:
    try:
        _native.check_same_tensors(source_map, target_map)
    except LayoutError as error:
        source, target = set(source_map.names()), set(target_map.names())
        reason = engine.adapter.why_other_tensors(source - target, target - source)
        if reason is None:
            raise
        raise LayoutError(reason) from error


def _routes(engine: Engine, prepared: Prepared) -> list[Route]:
    """Cuts the plan by lane, then each part into stages. Collective."""
    names = {HOST: prepared.source_map.names()}
    if DEVICE in engine.lanes:
        inventory = prepared.source.inventory
        on_host = _union(engine, set() if inventory is None else inventory.host_names())
        names = {
            HOST: [name for name in names[HOST] if name in on_host],
            DEVICE: [name for name in names[HOST] if name not in on_host],
        }
    return [_route(engine, prepared, lane, names[lane], len(names)) for lane in names]


def _route(
    engine: Engine, prepared: Prepared, lane: str, names: Sequence[str], num_lanes: int
) -> Route:
    options = _native.ScheduleOptions(
        staging_budget_bytes=engine.options.staging_budget_bytes // num_lanes,
        max_direct_per_pair=engine.lanes[lane].max_direct,
        with_sums="sums" in engine.options.verify,
    )
    plan = prepared.plan if num_lanes == 1 else prepared.plan.part_of(names)
    wanted = engine.gathered("planning", lambda: _native.num_stages_wanted(plan, options))
    schedule = engine.together(
        "planning",
        lambda: _native.make_schedule(
            plan, prepared.source_map, prepared.target_map, max(wanted), options
        ),
    )
    return Route(lane, plan, schedule)


def missing_bytes(engine: Engine, prepared: Prepared) -> int:
    """Bytes that this rank's target takes; raises BudgetError when they are over the budget."""
    inventory, staging = prepared.target.inventory, prepared.staging_peak_bytes
    fresh = 0
    if inventory is not None:
        fresh = inventory.missing_bytes(_adopted(engine, prepared))
    check_budget(engine.rank, fresh + staging, engine.options.memory_budget_bytes)
    return fresh


def _adopted(engine: Engine, prepared: Prepared) -> Collection[str]:
    source, target = prepared.source.inventory, prepared.target.inventory
    if source is None or target is None:
        return ()
    return engine.adapter.lendable(target, source, prepared.plan.adoptable())


def _take_memory(engine: Engine, prepared: Prepared) -> None:
    prepared.fresh_bytes = missing_bytes(engine, prepared)
    inventory = prepared.target.inventory
    if inventory is None:
        return
    if prepared.fresh_bytes:
        _native.trim_heap()  # here and not when a state is freed: a prepared switch waits for none
    source, adopted = prepared.source.inventory, _adopted(engine, prepared)
    try:
        prepared.target = Side.of(engine.adapter.materialize(inventory, source, adopted))
    except Exception as error:
        if is_out_of_memory(error):
            staging = prepared.staging_peak_bytes
            raise no_memory(engine.rank, prepared.fresh_bytes, staging, error) from error
        raise


def _agree_on_pairs(engine: Engine, prepared: Prepared) -> None:
    seconds = engine.options.timeout.total_seconds()

    def agree() -> None:
        for route in prepared.routes:
            engine.lanes[route.lane].executor.agree(route.plan, seconds)

    try:
        engine.together("agreeing on the plan", agree)
        routes = [_with_sources(engine, prepared, route) for route in prepared.routes]
        engine.together("taking staging memory", lambda: _make_runs(engine, prepared, routes))
    except Exception:
        engine.disconnect("the exchange of plan hashes failed")
        raise


def _make_runs(engine: Engine, prepared: Prepared, routes: Sequence[Route]) -> None:
    prepared.routes = [_with_run(engine, prepared, route) for route in routes]
    needed = prepared.fresh_bytes + prepared.staging_peak_bytes + prepared.table_bytes
    check_budget(engine.rank, needed, engine.options.memory_budget_bytes)


def _with_run(engine: Engine, prepared: Prepared, route: Route) -> Route:
    """Makes the run of a lane, bound to the tensors that stand now."""
    try:
        return replace(route, run=_prepared_run(engine, prepared, route))
    except DeviceError as error:
        # Mapped sources are used up by the first attempt, and mapping is collective.
        if route.one_sided or _OUT_OF_MEMORY not in str(error):
            raise
    _log.info("torch's cached memory makes room for staging")
    torch.cuda.empty_cache()
    return replace(route, run=_prepared_run(engine, prepared, route))


def _prepared_run(engine: Engine, prepared: Prepared, route: Route) -> _native.PreparedRun:
    return engine.lanes[route.lane].executor.prepare(
        route.plan,
        route.schedule,
        prepared.source_map,
        prepared.target_map,
        prepared.source.table,
        prepared.target.table,
        engine.options.timeout.total_seconds(),
        "sums" in engine.options.verify,
        route.one_sided,
    )


def _with_sources(engine: Engine, prepared: Prepared, route: Route) -> Route:
    """Maps the peers' sources ahead of the switch, where all ranks can. Collective."""
    lane = engine.lanes[route.lane]
    if not lane.transport.is_one_sided:
        return route
    seconds = engine.options.timeout.total_seconds()
    problems = engine.gathered(
        "mapping the sources",
        lambda: lane.executor.map_sources(
            route.plan, prepared.source_map, prepared.source.table, seconds
        ),
    )
    lines = [f"  rank {rank}: {text}" for rank, text in enumerate(problems) if text]
    if lines:
        _log.warning("this switch goes by messages, not in place:\n%s", "\n".join(lines))
    return replace(route, one_sided=not lines)
