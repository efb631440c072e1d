"""One run of a switch: what goes by one lane, in one way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dynatrain import _native
from dynatrain.switch.blueprint import LaneMoves


@dataclass(frozen=True)
class Route:
    """What one lane runs in a switch, of moves that go alike.

    Attributes:
        moves: what goes by it.
        schedule: the stages of that.
        one_sided: whether receivers read in place, without staging.
        last_reads: of all ranks, where the source is freed while the target arrives.
        streaming: what is freed and taken when; None where nothing is.
        run: used up by its one run; None before it is made.
    """

    moves: LaneMoves
    schedule: _native.Schedule
    one_sided: bool = False
    last_reads: bytes = b""
    streaming: _native.StreamingRun | None = None
    run: _native.PreparedRun | None = None


def staging_of(routes: Iterable[Route]) -> int:
    """Staging of some routes: those of one lane run in turn.

    One that needs no more than those before shares theirs; one that needs more has its own beside.
    """
    held: dict[str, int] = {}
    most: dict[str, int] = {}
    for route in routes:
        lane, needed = route.moves.lane, route.schedule.staging_peak_bytes
        if needed > most.get(lane, 0):
            held[lane] = held.get(lane, 0) + needed
            most[lane] = needed
    return sum(held.values())
