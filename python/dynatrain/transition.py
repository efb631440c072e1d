"""From one world to the next: prepare a target beside the source, move the state, hand it over.

Every function here is collective over all ranks of the job, idle ones included. A phase that fails
on one rank fails on all, with the source untouched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from dynatrain import _native
from dynatrain._errors import BudgetError, LayoutError, TransportError
from dynatrain._torch_private import local_tensor, new_group
from dynatrain.adapters.tensors import LiveTensors
from dynatrain.adapters.values import Values, read_streams, read_values, write_values
from dynatrain.control import Control, merge_plain
from dynatrain.guard import Build, build_on_meta
from dynatrain.layout import Layout
from dynatrain.materialize import add_slots, check_no_meta_left, materialize
from dynatrain.report import Span
from dynatrain.train_state import TrainState
from dynatrain.world import World

_T = TypeVar("_T")
VERIFY = ("sums", "fingerprint", "replicas")


@dataclass(frozen=True)
class Options:
    """Settings of a session; see ``dynatrain.init`` for what each means."""

    timeout: timedelta
    staging_budget_bytes: int
    memory_budget_bytes: int | None
    num_threads: int
    verify: frozenset[str]
    seed: int


@dataclass
class Side:
    """A state as the planner sees it: live tensors and the table made from them."""

    state: TrainState | None
    live: LiveTensors | None
    table: _native.StateTable

    @staticmethod
    def read(state: TrainState | None, names: Mapping[str, str] | None = None) -> Side:
        """Reads the present tensors of ``state``; an idle rank has none."""
        if state is None:
            return Side(None, None, _native.StateTable())
        live = LiveTensors(state, names)
        return Side(state, live, live.table())


class Clock:
    """Collects the spans of one rank, in seconds since it was made."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._start = time.perf_counter()
        self.spans: list[Span] = []

    def now(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._start

    def adopt(self, spans: Sequence[Span], by: float) -> None:
        """Takes over the spans of a clock that was made ``by`` seconds after this one."""
        self.spans += [
            replace(span, begin_seconds=span.begin_seconds + by, end_seconds=span.end_seconds + by)
            for span in spans
        ]

    def add(self, phase: str, begin: float) -> float:
        """Ends a span that began at ``begin``; returns its length."""
        end = self.now()
        self.spans.append(Span(self._rank, phase, 0, begin, end))
        return end - begin


def _attempt(work: Callable[[], _T]) -> tuple[_T | None, Exception | None]:
    try:
        return work(), None
    except Exception as caught:  # noqa: BLE001 - whatever it is, the peers must learn of it
        return None, caught


class Engine:
    """The control group, the union communicator and the native executor of one job."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.control: Control
        self.rank = dist.get_rank()
        self.num_ranks = dist.get_world_size()
        self._copier = _native.CpuCopier(options.num_threads)
        self._transport: _native.C10dTransport | None = None
        self.executor: _native.Executor | None = None

    @property
    def connected(self) -> bool:
        """Whether the control group and the union communicator stand."""
        return self.executor is not None and not self.control.lost

    def connect(self) -> None:
        """Makes the control group and the union communicator. Collective."""
        self.control = Control(self.options.timeout)
        group = new_group(None, self.options.timeout, backend="gloo")
        seconds = self.options.timeout.total_seconds()
        self._transport = _native.C10dTransport(
            group.group_name, self.rank, self.num_ranks, seconds
        )
        self.executor = _native.Executor(self._transport, self._copier)

    def disconnect(self, reason: str) -> None:
        """Ends the union communicator; it is made again before the next call."""
        if self._transport is not None:
            self._transport.abort(reason)
        self._transport = None
        self.executor = None

    def together(self, phase: str, work: Callable[[], _T]) -> _T:
        """Runs ``work``; when it fails on one rank, every rank raises. Collective."""
        result, error = _attempt(work)
        self.control.agree(phase, error, None)
        return result  # type: ignore[return-value]

    def gathered(self, phase: str, work: Callable[[], _T]) -> list[_T]:
        """What ``work`` returned by rank; when it fails on one, every rank raises. Collective."""
        result, error = _attempt(work)
        return self.control.agree(phase, error, result)  # type: ignore[arg-type]

    def fingerprint(self, shard_map: _native.ShardMap, table: _native.StateTable) -> str:
        """The fingerprint of a state, the same in every layout. Collective."""
        threads = self.options.num_threads
        shares = self.gathered(
            "the fingerprint",
            lambda: _native.fingerprint_share(shard_map, self.rank, table, threads),
        )
        return f"{sum(shares) % 2**64:016x}"

    def differing_replicas(
        self, shard_map: _native.ShardMap, table: _native.StateTable
    ) -> list[str]:
        """One line per cell on which owners differ. Collective."""
        threads = self.options.num_threads
        hashes = self.gathered(
            "comparing replicas",
            lambda: _native.fragment_hashes(shard_map, self.rank, table, threads),
        )
        return _native.compare_replicas(shard_map, hashes)

    def publish_map(self, side: Side) -> _native.ShardMap:
        """Joins what all ranks say of their state into one map, proved by each. Collective."""
        published = self.control.publish(side.table.encode())

        def merge() -> _native.ShardMap:
            merged = _native.ShardMap.merge(merge_plain(published))
            merged.prove_live(self.rank, side.table)
            return merged

        return self.together("reading the state", merge)


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


@dataclass
class Prepared:
    """A target that stands beside the source and waits for its bytes."""

    request: Request
    source: Side
    target: Side
    source_map: _native.ShardMap
    target_map: _native.ShardMap
    plan: _native.Plan
    schedule: _native.Schedule
    fresh_bytes: int = 0
    build_seconds: float = 0.0
    plan_seconds: float = 0.0
    prepare_seconds: float = 0.0
    spans: list[Span] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._signature = self.source.table.signature()

    def refresh(self, state: TrainState | None) -> bool:
        """Reads the source again; False when its tensors are not those that were planned for."""
        self.source = Side.read(state, self.request.names)
        return self.source.table.signature() == self._signature


def prepare(engine: Engine, state: TrainState | None, request: Request, clock: Clock) -> Prepared:
    """Builds the target, plans the way to it and takes its memory. Collective.

    ``state`` is the present state of this rank, None when it idles; ``clock`` was started with the
    preparation.
    """
    world = request.world
    begin = clock.now()
    source = engine.together("reading the state", lambda: Side.read(state, request.names))
    built = engine.together(
        "build", lambda: None if world is None else build_on_meta(request.build, world)
    )
    build_seconds = clock.add("build", begin)
    begin = clock.now()
    source_map = engine.publish_map(source)
    host_slots = _host_slots(engine, source)
    target = engine.together("build", lambda: _target_on_meta(built, source_map, host_slots))
    target_map = engine.publish_map(target)
    plan, schedule = _plan(engine, source_map, target_map)
    prepared = Prepared(request, source, target, source_map, target_map, plan, schedule)
    prepared.plan_seconds = clock.add("plan", begin)
    begin = clock.now()
    engine.together("taking memory", lambda: _take_memory(engine, prepared))
    _agree_on_pairs(engine, prepared)
    prepared.build_seconds = build_seconds + clock.add("build", begin)
    prepared.prepare_seconds = clock.now()
    prepared.spans = clock.spans
    return prepared


def _host_slots(engine: Engine, source: Side) -> set[str]:
    mine = set() if source.live is None else source.live.host_slots
    return set().union(*engine.control.gather(mine))


def _target_on_meta(
    built: TrainState | None, source_map: _native.ShardMap, host_slots: set[str]
) -> Side:
    if built is not None:
        add_slots(built, LiveTensors(built), source_map, host_slots)
    return Side.read(built)


def _plan(
    engine: Engine, source_map: _native.ShardMap, target_map: _native.ShardMap
) -> tuple[_native.Plan, _native.Schedule]:
    options = _native.ScheduleOptions(
        staging_budget_bytes=engine.options.staging_budget_bytes,
        with_sums="sums" in engine.options.verify,
    )

    def derive() -> tuple[_native.Plan, int]:
        source_map.prove_coverage()
        _native.check_same_tensors(source_map, target_map)
        derived = _native.make_plan(source_map, target_map, engine.rank)
        return derived, _native.num_stages_wanted(derived, options)

    plan, wanted = engine.together("planning", derive)
    answers = engine.control.gather((source_map.hash(), target_map.hash(), wanted))
    if len({answer[:2] for answer in answers}) != 1:
        raise LayoutError(
            f"plan: the ranks hold different shard maps: {answers}\n"
            "  nothing was moved; the source state is intact\n"
            "  every rank must run the same build and the same version of dynatrain"
        )
    stages = max(answer[2] for answer in answers)
    schedule = engine.together(
        "planning",
        lambda: _native.make_schedule(plan, source_map, target_map, stages, options),
    )
    return plan, schedule


def _take_memory(engine: Engine, prepared: Prepared) -> None:
    target, staging = prepared.target, prepared.schedule.staging_peak_bytes
    world = prepared.request.world
    if target.state is None or target.live is None or world is None:
        _check_budget(engine, staging)
        return
    adopted = _adopted(prepared.source, target, prepared.plan)
    fresh = {
        id(tensor): local_tensor(tensor).nbytes
        for name, tensor in target.live.tensors.items()
        if name not in adopted and local_tensor(tensor).is_meta
    }
    prepared.fresh_bytes = sum(fresh.values())
    _check_budget(engine, prepared.fresh_bytes + staging)
    materialize(target.state, target.live, world.device, adopted)
    check_no_meta_left(target.state)
    target.table = target.live.table()


def _adopted(source: Side, target: Side, plan: _native.Plan) -> dict[str, torch.Tensor]:
    if source.live is None or target.live is None:
        return {}
    return {
        name: local_tensor(source.live.tensors[name]).detach()
        for name in plan.adoptable()
        if local_tensor(target.live.tensors[name]).is_meta
    }


def _check_budget(engine: Engine, extra_bytes: int) -> None:
    budget = engine.options.memory_budget_bytes
    if budget is not None and extra_bytes > budget:
        raise BudgetError(
            f"session: the switch needs {extra_bytes} bytes beside the source on rank "
            f"{engine.rank}\n  the budget is {budget} bytes\n"
            "  nothing was moved; the source state is intact\n"
            "  raise memory_budget_bytes, or lower staging_budget_bytes",
            extra_bytes,
            budget,
        )


def _agree_on_pairs(engine: Engine, prepared: Prepared) -> None:
    executor = engine.executor
    assert executor is not None

    def agree() -> None:
        executor.reserve(prepared.schedule)
        executor.agree(prepared.plan, engine.options.timeout.total_seconds())

    try:
        engine.together("agreeing on the plan", agree)
    except TransportError:
        engine.disconnect("the exchange of plan hashes failed")
        raise


@dataclass
class Moved:
    """What a transfer says of itself on one rank."""

    seconds: float
    staging_peak_bytes: int
    spans: list[Span]
    published: list[Values]


def transfer(
    engine: Engine,
    prepared: Prepared,
    device: torch.device,
    kept: Callable[[], Mapping[str, object]],
    clock: Clock,
) -> Moved:
    """Moves the state into the target; the source is only read. Collective.

    What ``kept()`` returns is published beside the state, for ranks that join.

    Raises:
        TransportError: a peer failed; the union communicator is gone, the source is intact.
    """
    mine = engine.together(
        "reading the state", lambda: _encoded_values(prepared.source, device, kept())
    )
    published = [Values.decode(item.blob) for item in engine.control.publish(mine) if item.blob]
    executor = engine.executor
    assert executor is not None
    begin = clock.now()

    def move() -> _native.RunResult:
        return executor.run(
            prepared.plan,
            prepared.schedule,
            prepared.source_map,
            prepared.target_map,
            prepared.source.table,
            prepared.target.table,
            engine.options.timeout.total_seconds(),
            "sums" in engine.options.verify,
            True,
            _native.RunControl(),
        )

    try:
        result = engine.together("moving the state", move)
    except Exception:
        engine.disconnect("a rank failed while the state was moving")
        raise

    def take_over() -> None:
        if prepared.target.state is not None and prepared.target.live is not None:
            write_values(prepared.target.state, prepared.target.live, published)

    engine.together("handing over", take_over)
    spans = [
        Span(engine.rank, phase, stage, begin + start, begin + end, size)
        for phase, stage, start, end, size in result.spans
    ]
    return Moved(result.seconds, result.staging_peak_bytes, spans, published)


def _encoded_values(source: Side, device: torch.device, kept: Mapping[str, object]) -> bytes:
    if source.state is None or source.live is None:
        return b""
    values = read_values(source.state, source.live)
    values.streams = read_streams(device)
    values.stateful.update(kept)
    return values.encode()
