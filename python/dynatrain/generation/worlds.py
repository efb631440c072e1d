"""The places of one rank in the layouts of a job; groups are made once per layout and kept."""

from __future__ import annotations

from collections.abc import Callable, Collection
from traceback import walk_tb
from typing import Any

import torch
from torch.distributed import DistError, distributed_c10d

from dynatrain._errors import Error, is_out_of_memory
from dynatrain._torch_private.groups import group_making, name_groups_from, num_groups_named
from dynatrain._torch_private.tensors import clear_sharding_cache
from dynatrain.generation.control import attempt
from dynatrain.generation.engine import Engine
from dynatrain.generation.world import Meshes, World
from dynatrain.generation.world_groups import WorldGroups
from dynatrain.layout import Layout

#: Where an error stands among those of the other ranks: the cause, then its echoes.
_OWN, _OUT_OF_TORCH, _WAITED, _NONE = range(4)
#: Layouts that are kept besides those in use: each has groups, with threads and sockets.
_MOST_UNUSED = 4
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
        self._groups: dict[Layout, WorldGroups] = {}

    @property
    def kept(self) -> tuple[str, ...]:
        """The layouts that this rank has its place in, or idles."""
        return tuple(str(layout) for layout in self._kept)

    def at(
        self,
        layout: Layout,
        epoch: int,
        name: str,
        *,
        kept: bool,
        in_use: Collection[Layout] = (),
    ) -> World | None:
        """This rank's place in ``layout`` at an epoch, made when it is first asked for. Collective.

        Of layouts that are not in use, those that were not asked for longest are let go of. Where
        the user's hook makes groups of its own, all are kept: it is called once per layout.

        Args:
            layout: the layout.
            epoch: the world's number.
            name: for what is made, new and the same on all ranks.
            kept: whether all ranks have their places in it already.
            in_use: layouts that are not to be let go of, the same on all ranks.

        Raises:
            LayoutError: the layout or the user's hook failed on a rank; nothing is kept of it.
            TransportError: a rank did not come.
        """
        if not kept:
            self._forget(layout)
            self._kept[layout] = self._made(layout, name)
        place = self._kept[layout] = self._kept.pop(layout)  # the last to go
        self._let_go_of_oldest({layout, *in_use})
        return None if place is None else place.at_epoch(epoch)

    def _let_go_of_oldest(self, in_use: Collection[Layout]) -> None:
        unused = [layout for layout in self._kept if layout not in in_use]
        if self._make_groups is None:
            for layout in unused[:-_MOST_UNUSED]:
                self._forget(layout)

    def end(self) -> None:
        """Ends the groups of all places; their meshes are of no use any more."""
        for layout in list(self._groups):
            self._forget(layout)
        clear_sharding_cache()  # it holds meshes

    def _forget(self, layout: Layout) -> None:
        self._kept.pop(layout, None)
        groups = self._groups.pop(layout, None)
        if groups is not None:
            groups.end()

    def _made(self, layout: Layout, name: str) -> World | None:
        timeout = self._engine.options.timeout
        from_hook = self._groups_of(layout)
        groups = self._groups[layout] = WorldGroups(self._engine.members, name, timeout)

        def place() -> World | None:
            # A rank that fails tells the others when they have given up on it.
            with groups.all_within(timeout / 2):
                return self._world(layout, groups, from_hook)

        try:
            world, error = attempt(place)
            self._agree("making the world", error)
        except BaseException:
            self._forget(layout)
            raise
        return world

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
        try:
            self._agree("the hook groups=", error)
        finally:
            if not control.lost:
                # Ranks that left it early, or made groups of some ranks alone, have counted less.
                most = control.agree("the hook groups=", None, num_groups_named(), max)
                name_groups_from(most)
        return groups

    def _agree(self, phase: str, error: Exception | None) -> None:
        """Raises on all ranks what one raised by itself, before what others met that waited for it.

        One exchange where nobody failed. Collective.
        """
        control, place = self._engine.control, _place_of(error)
        first = control.agree(phase, None, place, min)
        if first != _NONE:
            control.agree(phase, error if place == first else None, None)

    def _world(self, layout: Layout, groups: WorldGroups, from_hook: Any) -> World | None:
        if self._engine.rank >= layout.world_size:
            return None
        meshes = Meshes(layout, self._device.type, groups)
        world = World(layout, self._engine.rank, self._device, meshes, from_hook)
        world.group(*layout.order)  # what most scripts reduce over; made before it is needed
        return world


def _place_of(error: BaseException | None) -> int:
    """Where an error stands: what a rank raised by itself first, who waited for that rank last.

    One that was raised ``from`` another stands where that one does.
    """
    if error is None:
        return _NONE
    if isinstance(error, Error) and error.__cause__ is not None:
        return _origin(error.__cause__)  # ours says what it means, and is of torch's family, too
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
