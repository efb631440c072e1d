"""The worlds of one rank; the groups of each are made once and kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any

import torch
from torch._C._distributed_c10d import Store
from torch.distributed import DistError, distributed_c10d

from dynatrain._errors import Error, TransportError, is_refused
from dynatrain._torch_private.groups import (
    GroupKind,
    default_group,
    gloo_group,
    group_making,
    name_groups_from,
    num_groups_named,
)
from dynatrain._torch_private.tensors import clear_sharding_cache
from dynatrain.generation.control import attempt
from dynatrain.generation.engine import Engine
from dynatrain.generation.meshes import Meshes, make_groups_ahead
from dynatrain.generation.seats import Seats
from dynatrain.generation.world import World
from dynatrain.generation.world_groups import WorldGroups
from dynatrain.layout import Layout

#: Where an error stands among those of the other ranks: the cause, then its echoes.
_OWN, _OUT_OF_TORCH, _WAITED, _NONE = range(4)
#: The files in which what Gloo raises comes up.
_OF_GROUPS = (distributed_c10d.__file__, gloo_group.__code__.co_filename)
#: Worlds that are kept besides those in use: each has groups, with threads and sockets.
_MOST_UNUSED = 4
#: The user's own code that makes the groups and meshes of a layout; called on all ranks.
MakeGroups = Callable[[Layout], Any]


@dataclass(eq=False)
class _Place:
    """What one attempt at a world has made on this rank.

    Attributes:
        world: None where this rank idles, and while it is being made.
        groups: of that world; None where this rank idles.
        keys: the store that the world has its keys in, and their purpose there; of one rank.
        is_made: on all ranks. Until then whoever makes it ends it, and nobody else.
    """

    world: World | None = None
    groups: WorldGroups | None = None
    keys: tuple[Store, str] | None = None
    is_made: bool = False

    @property
    def is_ended(self) -> bool:
        """Whether its connections were ended: no group of it is made or used any more."""
        connections = None if self.groups is None else self.groups.connections
        return connections is not None and connections.are_cut


class Worlds:
    """This rank's worlds by who sits where, None where it idles.

    Args:
        engine: of the session.
        device: where parameters live.
        make_groups: makes what a framework needs of groups for a layout, or None.
        default: what torch's default group is made of where each world has one of its own; None
            where the job has one for all worlds.
    """

    def __init__(
        self,
        engine: Engine,
        device: torch.device,
        make_groups: MakeGroups | None,
        default: GroupKind | None = None,
    ) -> None:
        self._engine = engine
        self._default = default
        self._device = device
        self._make_groups = make_groups
        self._places: dict[Seats, _Place] = {}  #: the one that was asked for last is the last

    def over(self, engine: Engine) -> Worlds:
        """The same worlds, made over what another engine has; what is made is kept for both."""
        same = copy.copy(self)
        same._engine = engine
        return same

    @property
    def kept(self) -> tuple[str, ...]:
        """Keys of the seats that this rank has its place in, or idles."""
        return tuple(seats.key for seats in self._made_seats())

    def _made_seats(self) -> list[Seats]:
        places = [*self._places.items()]  # threads make some, too
        return [seats for seats, place in places if place.is_made and not place.is_ended]

    def at(
        self,
        seats: Seats,
        epoch: int,
        name: str,
        *,
        kept: bool,
        in_use: Collection[Seats] = (),
    ) -> World | None:
        """This rank's world at an epoch, made when it is first asked for. Collective.

        Of worlds that are not in use, those that were not asked for longest are let go of. Where
        the user's hook makes groups of its own, all are kept: it is called once per layout.

        Args:
            seats: who sits where; members of the generation.
            epoch: the world's number.
            name: for what is made, new and the same on all ranks.
            kept: whether all ranks have their places in it already.
            in_use: seats that are not to be let go of, the same on all ranks.

        Raises:
            LayoutError: the layout or the user's hook failed on a rank; nothing is kept of it.
            TransportError: a rank did not come, another attempt at these seats has taken the place
                of this one, which was given up, or another thread has let go of a kept place.
        """
        place = self._taken(seats) if kept else self._make(seats, name)
        self._let_go_of_oldest({seats, *in_use})
        return None if place.world is None else place.world.at_epoch(epoch)

    def _taken(self, seats: Seats) -> _Place:
        """A place that is kept, which is the last to go from now on."""
        place = self._places.pop(seats, None)
        if place is not None:
            self._places[seats] = place
        if place is None or not place.is_made or place.is_ended:
            raise TransportError(
                f"session: this rank has let go of its place in the world of {seats.layout} since "
                "it told the others of it\n"
                "  expected it to be there until the call that found it has ended\n"
                "  nothing was moved; the present world and state are intact\n"
                "  the world ended meanwhile, or another attempt makes it anew; call again on all "
                "ranks where the call is still wanted"
            )
        return place

    def _let_go_of_oldest(self, in_use: Collection[Seats]) -> None:
        for seats, place in [*self._places.items()]:
            if place.is_made and place.is_ended and seats not in in_use:
                self._forget(seats)
        unused = [seats for seats in self._made_seats() if seats not in in_use]
        if self._make_groups is None:
            for seats in unused[:-_MOST_UNUSED]:
                self._forget(seats)

    def note_idle(self, seats: Seats) -> None:
        """Takes note of the world that others train in, so that it counts as kept on this rank.

        Of one in which it has its place, and no state any more, nothing is kept.
        """
        self._forget(seats)
        if seats.place_of(self._engine.generation.members.own.id) is None:
            self._places[seats] = _Place(is_made=True)

    def forget_ended(self) -> None:
        """Forgets places whose connections were ended: their groups are of no use any more."""
        for seats, place in [*self._places.items()]:
            if place.is_ended:
                self._forget(seats)

    def end(self) -> None:
        """Ends the groups of all places; their meshes are of no use any more."""
        for seats in [*self._places]:
            self._forget(seats)
        clear_sharding_cache()  # it holds meshes

    def _forget(self, seats: Seats) -> None:
        """Lets go of what stands for these seats; what is being made, its maker ends."""
        place = self._places.pop(seats, None)
        if place is not None and place.is_made:
            self._end(place)

    def _end(self, place: _Place) -> None:
        if place.groups is not None:
            place.groups.end()
        if place.keys is not None:  # all ranks have met since it was used
            self._engine.generation.give_up_keys(*place.keys)
            place.keys = None

    def _make(self, seats: Seats, name: str) -> _Place:
        """Makes the place of this rank, which stands for these seats from then on. Collective."""
        self._forget(seats)
        place = self._places[seats] = _Place()
        try:
            place.world = self._made(place, seats, name)
            place.is_made = True
            if self._places.get(seats) is not place:
                raise TransportError(
                    f"session: the world of {seats.layout} was made too late: its making was given "
                    "up before\n  expected the call that it was made for to wait for it\n"
                    "  its groups are ended; the present world and state are intact\n"
                    "  nothing is to be done where the call has ended; else call again on all ranks"
                )
        except BaseException:
            if self._places.get(seats) is place:  # else it is that of a later attempt
                del self._places[seats]
            self._end(place)
            raise
        return place

    def _made(self, own: _Place, seats: Seats, name: str) -> World | None:
        timeout, members = self._engine.options.timeout, self._engine.generation.members
        from_hook = self._groups_of(seats.layout)
        rank = seats.place_of(members.own.id)

        def place() -> World | None:
            if rank is None:
                return None
            numbers = None if self._default is not None else members.ranks_of(seats.ids)
            groups = own.groups = WorldGroups(members, name, rank, timeout, numbers)
            if rank == 0:
                own.keys = members.store, name
            # A rank that fails tells the others when they have given up on it.
            with groups.all_within(timeout / 2):
                if self._default is not None:
                    groups.make_default(self._default, seats.layout.world_size)
                make_groups_ahead(seats.layout, groups)
            return self._engine.at_boundary(lambda: self._world(seats.layout, groups, from_hook))

        world, error = attempt(place)
        self._agree("making the world", error)
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

    def _world(self, layout: Layout, groups: WorldGroups, from_hook: Any) -> World:
        with default_group(groups.default):
            meshes = Meshes(layout, self._device.type, groups, groups.default)
            world = World(layout, groups.rank, self._device, meshes, from_hook)
            world.group(*layout.order)  # what most scripts reduce over
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
    if isinstance(error, RuntimeError) and not is_refused(error):
        files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
        if files and files[-1] in _OF_GROUPS:
            return _OUT_OF_TORCH
    return _OWN
