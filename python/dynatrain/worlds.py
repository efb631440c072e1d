"""The places of one rank in all layouts of a job; groups are made once per layout and kept."""

from __future__ import annotations

from collections.abc import Callable
from traceback import walk_tb
from typing import Any

import torch
from torch.distributed import DistError, distributed_c10d

from dynatrain._errors import is_out_of_memory
from dynatrain._torch_private import group_making, name_groups_from, num_groups_named
from dynatrain.control import attempt
from dynatrain.engine import Engine
from dynatrain.layout import Layout
from dynatrain.world import Meshes, World

#: Where an error of the hook stands among those of the other ranks: the cause, then its echoes.
_OWN, _OUT_OF_TORCH, _WAITED, _NONE = range(4)
#: The user's own code that makes the groups and meshes of a layout; called on all ranks.
MakeGroups = Callable[[Layout], Any]


class Worlds:
    """This rank's worlds by layout, None where it idles.

    Args:
        engine: of the job.
        device: where parameters live.
        make_groups: makes what a framework needs of groups for a layout, or None.
    """

    def __init__(
        self, engine: Engine, device: torch.device, make_groups: MakeGroups | None
    ) -> None:
        self._engine = engine
        self._device = device
        self._make_groups = make_groups
        self._kept: dict[Layout, World | None] = {}

    def at(self, layout: Layout, epoch: int) -> World | None:
        """This rank's place in ``layout`` at an epoch, made when it is first asked for. Collective.

        Raises:
            LayoutError: the layout or the user's hook failed on a rank; nothing is kept of it.
            TransportError: a rank did not come.
        """
        if not all(self._engine.control.gather(layout in self._kept, "making the world")):
            self._kept[layout] = self._made(layout)
        kept = self._kept[layout]
        return None if kept is None else kept.at_epoch(epoch)

    def _made(self, layout: Layout) -> World | None:
        """Makes what is collective over all ranks, then what the members of groups make alone."""
        engine = self._engine
        meshes = engine.together(
            "making the meshes", lambda: Meshes(layout, self._device.type, engine.num_ranks)
        )
        groups = self._groups_of(layout)
        return engine.together("making the world", lambda: self._world(layout, meshes, groups))

    def _groups_of(self, layout: Layout) -> Any:
        """What the user's hook makes for a layout. Collective.

        A rank on which it raises tells the others once they have left it: they wait in it for that
        rank half of the session's deadline, so that it has not given up on them by then.
        """
        control, make = self._engine.control, self._make_groups
        if make is None:
            return None
        deadline = self._engine.options.timeout / 2

        def made() -> Any:
            with group_making(deadline):
                return make(layout)

        groups, error = attempt(made)
        place = _place_of(error)
        try:
            first = min(control.gather(place, "the hook groups="))
            control.agree("the hook groups=", error if place == first else None, None)
        finally:
            if not control.lost:
                # Ranks that left it early, or made groups of some ranks alone, have counted less.
                name_groups_from(max(control.gather(num_groups_named(), "the hook groups=")))
        return groups

    def _world(self, layout: Layout, meshes: Meshes, groups: Any) -> World | None:
        if self._engine.rank >= layout.world_size:
            return None
        timeout = self._engine.options.timeout
        world = World(layout, self._engine.rank, self._device, meshes, timeout, groups)
        world.group(*layout.order)  # what most scripts reduce over; made before it is needed
        return world


def _place_of(error: BaseException | None) -> int:
    """Where an error of the hook stands: one that raised by itself first, who waited for it last.

    One that the hook raised ``from`` another stands where that one does.
    """
    if error is None:
        return _NONE
    return max(_origin(error), _OWN if error.__cause__ is None else _origin(error.__cause__))


def _origin(error: BaseException) -> int:
    """What Gloo and a FileStore raise has no class of its own, and is known by where it came up.

    It may be a rank's own, as when its torch lacks a backend.
    """
    if isinstance(error, DistError):
        return _WAITED
    if isinstance(error, RuntimeError) and not is_out_of_memory(error):
        files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
        if files[-1:] == [distributed_c10d.__file__]:
            return _OUT_OF_TORCH
    return _OWN
