"""Whether a switch retains its source until the target stands, or streams it away meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from dynatrain import _native, words
from dynatrain._errors import BudgetError
from dynatrain.generation.engine import Engine
from dynatrain.generation.nodes import control_group

RETAIN, STREAM = "retain", "stream"
#: What is streamed goes in so many stages, where a message of one is no smaller than that: source
#: and target stand side by side by some stages' worth.
_STREAM_STAGES, _STREAM_MESSAGE_BYTES = 64, 256 << 10


def modes(wanted: str) -> tuple[str, ...]:
    """The modes that a session may take, the preferred one first."""
    return (RETAIN, STREAM) if wanted == "auto" else (wanted,)


def schedule_options(
    engine: Engine, lane: str, num_lanes: int, mode: str
) -> _native.ScheduleOptions:
    """How the moves of a lane are cut into stages."""
    return options_of_mode(
        mode,
        engine.options.staging_budget_bytes // num_lanes,
        engine.lanes[lane].max_direct,
        "sums" in engine.options.verify,
    )


def options_of_mode(
    mode: str,
    staging_budget_bytes: int,
    max_direct_per_pair: int = _native.ScheduleOptions().max_direct_per_pair,
    with_sums: bool = _native.ScheduleOptions().with_sums,
) -> _native.ScheduleOptions:
    """What a mode asks of stages: many, where the source goes while the target arrives."""
    usual, streams = _native.ScheduleOptions(), mode == STREAM
    return _native.ScheduleOptions(
        staging_budget_bytes=staging_budget_bytes,
        max_direct_per_pair=max_direct_per_pair,
        num_stages_to_overlap=_STREAM_STAGES if streams else usual.num_stages_to_overlap,
        min_message_bytes=_STREAM_MESSAGE_BYTES if streams else usual.min_message_bytes,
        with_sums=with_sums,
    )


@words.record
@dataclass(frozen=True)
class Room:
    """What a rank needs of a memory, and what there is of it.

    Attributes:
        place: the memory, the same for all ranks that share it.
        needed_bytes: by this rank.
        left_bytes: for all of them.
        group: the control group of the rank. Containers of one machine have limits of their own:
            what each has left is for its own ranks.
    """

    place: str
    needed_bytes: int
    left_bytes: int
    group: str = ""

    @staticmethod
    def of(engine: Engine, needed_bytes: int) -> Room:
        """The room of a rank: its budget, where it has one, else what its memory has left."""
        budget = engine.options.memory_budget_bytes
        if budget is not None:
            return Room(f"rank {engine.rank}", needed_bytes, budget)
        if engine.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(engine.device)
            cached = torch.cuda.memory_reserved(engine.device)
            used = torch.cuda.memory_allocated(engine.device)
            return Room(f"rank {engine.rank}", needed_bytes, free + cached - used)
        node = engine.generation.members.node_of_rank[engine.rank]
        left, own = _native.available_host_bytes(), _native.available_address_bytes()
        if own < left:
            return Room(f"rank {engine.rank}", needed_bytes, own)
        return Room(f"node {node}", needed_bytes, left, control_group())


def _shared(rooms: Sequence[Room]) -> list[Room]:
    """What all ranks need of each memory, and the least that any of them sees left."""
    found: dict[tuple[str, str], Room] = {}
    for room in rooms:
        before = found.get((room.place, room.group), replace(room, needed_bytes=0))
        found[room.place, room.group] = replace(
            room,
            needed_bytes=before.needed_bytes + room.needed_bytes,
            left_bytes=min(before.left_bytes, room.left_bytes),
        )
    return list(found.values())


def fit(rooms: Sequence[Room]) -> bool:
    """Whether what all ranks need fits."""
    return all(room.needed_bytes <= room.left_bytes for room in _shared(rooms))


def check_fit(rooms: Sequence[Room]) -> None:
    """Raises BudgetError where what all ranks are about to need does not fit."""
    for room in _shared(rooms):
        if room.needed_bytes > room.left_bytes:
            raise BudgetError(
                f"session: the switch needs {room.needed_bytes} bytes beside what is held now, "
                f"while source and target stand side by side in parts, on {room.place}\n"
                f"  {room.left_bytes} bytes are left there\n"
                "  nothing was moved; the source state is intact\n"
                "  free memory there, lower staging_budget_bytes, or switch to a layout that "
                "shards more (a larger dp, tp or pp)",
                room.needed_bytes,
                room.left_bytes,
            )


def chosen(asked: Sequence[str], rooms: Sequence[Room | None]) -> str:
    """The mode of a switch, from the rooms that all ranks have for the first of those asked for."""
    if len(asked) == 1:
        return asked[0]
    return asked[0] if fit([room for room in rooms if room is not None]) else asked[1]


def latest(of_all: Sequence[Mapping[str, bytes]]) -> dict[str, bytes]:
    """The last reads of each lane, the largest of all ranks."""
    return {
        lane: _native.largest_last_reads([reads[lane] for reads in of_all]) for lane in of_all[0]
    }
