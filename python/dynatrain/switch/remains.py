"""What a switch that frees its source has left on a rank where it fails: parts of two states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dynatrain import _native
from dynatrain.generation.engine import Engine
from dynatrain.switch.standing import Standing


@dataclass(frozen=True)
class Remains:
    """What has landed of the target. What is left of the source is where its storages have memory.

    Attributes:
        landed: by boxes where they lie; its tensors must outlive it.
        on_host: names of those of its tensors that lie in host memory.
        has_place: whether this rank has one in the target.
        num_neighbours: ranks of its host, itself among them, all of which keep theirs now.
    """

    landed: _native.StateTable
    on_host: frozenset[str]
    has_place: bool
    num_neighbours: int


class Rescue(Protocol):
    """Keeps what is left where a switch fails that frees its source; no method raises."""

    def note(self) -> None:
        """Notes what is no tensor of the present state, which is whole for the last time."""

    def keep(self, remains: Callable[[], Remains]) -> None:
        """Copies what is left of that state, and what has landed of the next one."""

    def let_go(self) -> None:
        """The switch is done, or given up: what was noted is of no use any more."""


def remains_of(
    engine: Engine, standing: Standing, controls: Sequence[_native.RunControl]
) -> Remains:
    """What the runs of a target have brought to this rank; they have ended.

    Args:
        engine: of the job.
        standing: the target.
        controls: of the runs, one for each of its routes.
    """
    inventory = standing.target.inventory
    places: dict[str, tuple[int, int]] = {}
    if inventory is not None:
        storages = inventory.storages()
        for name, (number, begin) in storages.of_tensor.items():
            storage = storages.each[number]
            if storage.nbytes():
                places[name] = storage.data_ptr() + begin, storage.nbytes() - begin
    routes = zip(standing.routes, controls, strict=True)
    landed = _native.landed_parts(
        [(route.schedule, control.landed_stages) for route, control in routes],
        standing.blueprint.target_map,
        places,
    )
    nodes = engine.generation.members.node_of_rank
    return Remains(
        landed,
        frozenset() if inventory is None else frozenset(inventory.host_names()),
        inventory is not None,
        nodes.count(nodes[engine.rank]),
    )
