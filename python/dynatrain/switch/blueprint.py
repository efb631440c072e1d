"""The way from source to target, drawn up: maps, plan, stages. Nothing has memory yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dynatrain import _native, by_rank
from dynatrain._errors import BudgetError, LayoutError
from dynatrain.generation.engine import Engine, Side
from dynatrain.generation.held import Source
from dynatrain.generation.lanes import DEVICE, HOST
from dynatrain.handing_on import HandedOn, loads, ways_to_hand_on
from dynatrain.switch.called import Called
from dynatrain.switch.clock import Clock
from dynatrain.switch.fingerprints import Counted
from dynatrain.switch.readings import Sources, Targets, read_sources, read_targets
from dynatrain.switch.renames import check_new_names, check_old_names
from dynatrain.switch.room import RETAIN, STREAM, Room, chosen, fit, modes, schedule_options
from dynatrain.train_state import TrainState

#: Of staging, besides what is moved: its least for each peer and direction, and gaps between moves.
_BYTES_A_PEER, _BYTES_A_MOVE = 1024, 64
_log = logging.getLogger("dynatrain.session")
#: A way to retain the source, or to stream it: a mode, and which of the ways to hand it on, from 1.
_Way = tuple[str, int]
#: What a rank says of its plan: the hashes of its maps, the stages of each lane by way, its room
#: in one pass and in two, where memory is limited, and what its links carry, by way to retain and
#: pass.
_Rooms = tuple[Room | None, Room | None]
_Planned = tuple[tuple[int, int], dict[_Way, list[int]], _Rooms, list[list[int]]]


@dataclass(frozen=True)
class LaneMoves:
    """What one lane moves in a switch.

    Attributes:
        lane: name of the lane.
        names: of the tensors that go by it.
        plan: the moves of this rank that go by it.
        options: of its schedule.
        num_stages: that all ranks agreed on.
        maps: between which it is: those of the switch, or of one pass of it.
        is_handed_on: whether it is a second pass, which sends what has come into the target.
    """

    lane: str
    names: Sequence[str]
    plan: _native.Plan
    options: _native.ScheduleOptions
    num_stages: int
    maps: tuple[_native.ShardMap, _native.ShardMap]
    is_handed_on: bool = False


@dataclass(frozen=True)
class Blueprint:
    """A switch as all ranks have agreed on it.

    Attributes:
        called: what it is for.
        source: this rank's tensors in the source.
        target: its tensors in the target, on meta.
        source_map: the source of all ranks.
        target_map: the target of all ranks.
        plan: this rank's moves.
        by_lane: the plan, cut by lane; where it is handed on, both passes of each lane.
        apart: further FQNs of tied parameters that are named, as one side alone ties them.
        counted: how source and target are counted for a fingerprint; None when none is asked for.
        streams: whether the source is freed while the target arrives.
    """

    called: Called
    source: Side
    target: Side
    source_map: _native.ShardMap
    target_map: _native.ShardMap
    plan: _native.Plan
    by_lane: Sequence[LaneMoves]
    apart: frozenset[str]
    counted: tuple[Counted, Counted] | None
    streams: bool = False

    @property
    def mode(self) -> str:
        """What the switch does with the memory of its source."""
        return STREAM if self.streams else RETAIN

    def schedule_of(self, moves: LaneMoves) -> _native.Schedule:
        """The stages of some moves."""
        return _native.make_schedule(moves.plan, *moves.maps, moves.num_stages, moves.options)

    def schedules(self) -> list[_native.Schedule]:
        """The stages of every lane."""
        return [self.schedule_of(each) for each in self.by_lane]

    def adopted(self, engine: Engine) -> frozenset[str]:
        """Names whose memory in the source serves the target as it is."""
        source, target = self.source.inventory, self.target.inventory
        if source is None or target is None:
            return frozenset()
        return frozenset(engine.adapter.lendable(target, source, self.plan.adoptable()))

    def missing_bytes(self, engine: Engine) -> int:
        """Bytes that this rank's target takes."""
        inventory = self.target.inventory
        return 0 if inventory is None else inventory.missing_bytes(self.adopted(engine))


def draw(
    engine: Engine,
    state: Source,
    called: Called,
    clock: Clock,
    built: TrainState | None = None,
) -> Blueprint:
    """Builds the target on meta and plans the way to it. Collective: three exchanges.

    There is nothing to release when it fails: a target on meta is garbage.

    Args:
        engine: of the job.
        state: what this rank brings, None when it idles.
        called: what all ranks called for.
        clock: started with the preparation.
        built: what build has made on meta before, if it has.

    Raises:
        LayoutError, DeviceError, BudgetError: build, names, slots or maps do not fit; the same kind
            on all ranks.
        TransportError: a rank did not answer.
    """
    with clock.phase("build"):
        check_old_names(engine, state, called)
        sources = read_sources(engine, state, called, built)
    with clock.phase("plan"):
        targets = read_targets(engine, sources, called)
        return _planned(engine, called, sources, targets)


def _planned(engine: Engine, called: Called, sources: Sources, targets: Targets) -> Blueprint:
    phase = "reading the state"
    published = engine.control.publish(targets.parts, targets.held_by, phase)
    source_map, naming = targets.source_maps[0], sources.naming
    drawn: list[Blueprint] = []
    asked = modes(engine.options.mode)
    cut: dict[_Way, list[LaneMoves]] = {}

    def plan() -> _Planned:
        target_maps = engine.merged(published, targets.sides)
        target_map = target_maps[0]
        check_new_names(target_map, called.names)
        source_map.prove_coverage()
        _check_same_tensors(engine, source_map, target_map)
        if engine.rank == 0:
            _warn_of_axes_without_cut(engine, called, target_map)
        nodes = engine.generation.members.node_of_rank
        mine = _native.make_plan(source_map, target_map, engine.rank, nodes)
        counted = None
        if "fingerprint" in engine.options.verify:
            counted = (
                Counted(targets.source_maps[-1], naming.tied),
                Counted(target_maps[-1], naming.tied),
            )
        names = _names_by_lane(engine, source_map, sources)
        maps = (source_map, target_map)
        cut.update(((mode, 0), _by_lane(engine, mine, maps, names, mode)) for mode in asked)
        ways = _ways_to_hand_on(engine, maps) if RETAIN in asked else []
        plans = [way.plans_of(engine.rank) for way in ways]
        try:
            passes = [_in_passes(engine, *each, names) for each in zip(ways, plans, strict=True)]
        except BudgetError:  # of a way that need not be taken: in one pass all goes all the same
            passes, plans = [], []
        cut.update(((RETAIN, number), lanes) for number, lanes in enumerate(passes, 1))
        sides, by_lane = (sources.sides[0], targets.sides[0]), cut[asked[0], 0]
        drawn.append(
            Blueprint(called, *sides, source_map, target_map, mine, by_lane, naming.apart, counted)
        )
        is_limited = len(asked) > 1 or engine.options.memory_budget_bytes is not None
        rooms = (
            _room(engine, drawn[0], [(mine,)]) if is_limited else None,
            _room(engine, drawn[0], plans) if is_limited and plans else None,
        )
        stages = {key: [each.num_stages for each in lanes] for key, lanes in cut.items()}
        hashes = (source_map.hash(), target_map.hash())
        return hashes, stages, rooms, loads([(mine,), *plans], nodes)

    hashes, way, wanted = engine.joined(
        "planning", plan, lambda answers: _all_planned(asked, answers)
    )
    _check_same_maps(hashes)
    own = zip(cut[way], wanted, strict=True)
    by_lane = [replace(each, num_stages=n) for each, n in own]
    return replace(drawn[0], by_lane=by_lane, streams=way[0] == STREAM)


def _room(engine: Engine, blueprint: Blueprint, ways: Sequence[Sequence[_native.Plan]]) -> Room:
    """What this rank needs to retain its source, of staging as much as any way takes at most.

    Of two passes both have staging: a second one that needs more takes it beside the first one's.
    """
    budget = engine.options.staging_budget_bytes
    staging = max(sum(_staging(plan, budget) for plan in passes) for passes in ways)
    return Room.of(engine, blueprint.missing_bytes(engine) + staging)


def _staging(plan: _native.Plan, budget_bytes: int) -> int:
    num_peers = len(plan.sends()) + len(plan.receives())
    staged = plan.received_bytes + plan.sent_bytes
    staged += num_peers * _BYTES_A_PEER + plan.num_moves * _BYTES_A_MOVE
    return min(staged, budget_bytes) if num_peers else 0


def _all_planned(
    asked: Sequence[str], answers: Sequence[_Planned]
) -> tuple[dict[tuple[int, int], list[int]], _Way, list[int]]:
    """The ranks that hold each pair of maps; where it is one, the way and its stages."""
    ranks_by: dict[tuple[int, int], list[int]] = {}
    for rank, (hashes, *_) in enumerate(answers):
        ranks_by.setdefault(hashes, []).append(rank)
    if len(ranks_by) > 1:
        return ranks_by, (asked[0], 0), []
    mode = chosen(asked, [rooms[0] for _, _, rooms, _ in answers])
    way = (mode, _way_to_retain(answers) if mode == RETAIN else 0)
    stages = zip(*(stages[way] for _, stages, _, _ in answers), strict=True)
    return ranks_by, way, [max(each) for each in stages]


def _way_to_retain(answers: Sequence[_Planned]) -> int:
    """The way of least load; in one pass where a rank has no other one, or no room for it.

    Ranks of one machine may read in place where those of others send, and staging may be too small.
    """
    loads_of_ranks = [each for *_, each in answers]
    rooms = [rooms[1] for _, _, rooms, _ in answers if rooms[1] is not None]
    if len({len(each) for each in loads_of_ranks}) > 1 or not fit(rooms):
        return 0
    return _native.way_of_least_load(loads_of_ranks)


def _check_same_maps(ranks_by: Mapping[tuple[int, int], Sequence[int]]) -> None:
    if len(ranks_by) != 1:
        lines = by_rank.lines(
            {
                rank: f"{hashes[0]:016x} -> {hashes[1]:016x}"
                for hashes, ranks in ranks_by.items()
                for rank in ranks
            }
        )
        raise LayoutError(
            f"plan: the ranks hold {len(ranks_by)} different pairs of shard maps\n{lines}\n"
            "  expected one, by hash\n"
            "  nothing was moved; the source state is intact\n"
            "  every rank must run the same build and the same version of dynatrain"
        )


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


#: What comes of an axis that build passes over: of dp_shard, and of those that cut a step's work.
_APART = "They drift apart unless their gradients are averaged; replicas are dp_replicate's"
_SAME_WORK = "They do the same work, and drift apart where they draw random numbers"


def _warn_of_axes_without_cut(engine: Engine, called: Called, target_map: _native.ShardMap) -> None:
    """Where build passes over an axis nothing fails, and each rank along it trains for itself."""
    ranks = engine.generation.members.ranks_of(called.seats.ids)
    for axis in target_map.axes_without_cut(called.layout.native, ranks):
        _log.warning(
            "layout %s: ranks that differ along %s alone hold the same part of every tensor. Does "
            "build use %s? %s",
            called.layout,
            axis,
            axis,
            _APART if axis == "dp_shard" else _SAME_WORK,
        )


def _names_by_lane(
    engine: Engine, source_map: _native.ShardMap, sources: Sources
) -> Mapping[str, Sequence[str]]:
    names = source_map.names()
    if DEVICE not in engine.lanes:
        return {HOST: names}
    return {
        HOST: [name for name in names if name in sources.on_host],
        DEVICE: [name for name in names if name not in sources.on_host],
    }


def _by_lane(
    engine: Engine,
    plan: _native.Plan,
    maps: tuple[_native.ShardMap, _native.ShardMap],
    names: Mapping[str, Sequence[str]],
    mode: str,
) -> list[LaneMoves]:
    """The plan by lane, with the stages that this rank wants."""
    found = []
    for lane, of_lane in names.items():
        mine = plan if len(names) == 1 else plan.part_of(of_lane)
        options = schedule_options(engine, lane, len(names), mode)
        stages = _native.num_stages_wanted(mine, options)
        found.append(LaneMoves(lane, of_lane, mine, options, stages, maps))
    return found


def _ways_to_hand_on(
    engine: Engine, maps: tuple[_native.ShardMap, _native.ShardMap]
) -> list[HandedOn]:
    """None where peers read in place: nobody sends then."""
    in_place = any(lane.reads_in_place for lane in engine.lanes.values())
    nodes = engine.generation.members.node_of_rank
    return [] if in_place else ways_to_hand_on(maps, nodes)


def _in_passes(
    engine: Engine,
    way: HandedOn,
    passes: Sequence[_native.Plan],
    names: Mapping[str, Sequence[str]],
) -> list[LaneMoves]:
    """Both passes of each lane, one behind the other."""
    first, second = (
        _by_lane(engine, plan, maps, names, RETAIN)
        for plan, maps in zip(passes, way.maps, strict=True)
    )
    return [*first, *(replace(each, is_handed_on=True) for each in second)]
