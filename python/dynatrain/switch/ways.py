"""The ways of one lane's moves: what is read in place, and what goes by messages."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dynatrain import _native, by_rank
from dynatrain.generation.engine import Engine
from dynatrain.generation.lanes import HOST
from dynatrain.switch.blueprint import Blueprint, LaneMoves

_log = logging.getLogger("dynatrain.session")
#: What a rank says: the stages that it wants in place and by messages, 0 where it has no moves
#: that go so, and why it has some by messages that might be read.
_Told = tuple[tuple[int, int], str]


@dataclass(frozen=True)
class Way:
    """Moves of one lane that go alike.

    Attributes:
        moves: that go so.
        one_sided: whether receivers read in place, without staging.
    """

    moves: LaneMoves
    one_sided: bool = False


def ways_of(
    engine: Engine, blueprint: Blueprint, table: _native.StateTable, moves: LaneMoves
) -> list[Way]:
    """Maps the peers' sources ahead of the switch, where they can be. Collective.

    One way where all ranks agree on one for all moves; else what is read in place comes first, as
    the run that is prepared first takes what was mapped.

    Args:
        engine: of the job.
        blueprint: of the switch.
        table: this rank's tensors in the source.
        moves: of the lane.
    """
    lane = engine.lanes[moves.lane]
    if not lane.reads_in_place:
        return [Way(moves)]
    seconds = engine.options.timeout.total_seconds()
    parts: list[_native.Plan] = []

    def mapped() -> _Told:
        with engine.lanes_end_with_an_error("this rank could not map the sources of its peers"):
            *both, problem = lane.executor.map_sources(
                moves.plan, blueprint.source_map, table, seconds
            )
        parts.extend(both)
        return (_stages(both[0], moves), _stages(both[1], moves)), problem

    (in_place, by_messages), lines = engine.joined("mapping the sources", mapped, _of_all)
    if lines and engine.rank == 0:  # all ranks have the same lines
        # Of host memory it is the rule for what build, or the first steps, have made.
        level = logging.DEBUG if moves.lane == HOST else logging.WARNING
        _log.log(level, "some of this switch goes by messages, not in place:\n%s", lines)
    if not in_place or not by_messages:
        return [Way(moves, one_sided=not by_messages)]
    return [
        Way(replace(moves, plan=parts[0], num_stages=in_place), one_sided=True),
        Way(replace(moves, plan=parts[1], num_stages=by_messages)),
    ]


def _stages(plan: _native.Plan, moves: LaneMoves) -> int:
    if not plan.sends() and not plan.receives():
        return 0
    return _native.num_stages_wanted(plan, moves.options)


def _of_all(told: Sequence[_Told]) -> tuple[tuple[int, int], str]:
    """The stages that all ranks can keep to, and what they have said."""
    in_place, by_messages = zip(*(stages for stages, _ in told), strict=True)
    lines = by_rank.lines({rank: text for rank, (_, text) in enumerate(told) if text})
    return (max(in_place), max(by_messages)), lines
