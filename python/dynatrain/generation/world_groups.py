"""The groups of one rank in one world: made by their members alone, ended together."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial

from torch._C._distributed_c10d import Store
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from dynatrain._errors import TransportError, is_refused
from dynatrain._limits import room_for_groups
from dynatrain._torch_private.groups import (
    GLOO_KEYS,
    GroupKind,
    backends_that_abort,
    end_group,
    forget_groups,
    gloo_by,
    group_to_be_default,
    groups_of_others,
    listed_group,
    parts_of_group,
)
from dynatrain.generation.connections import Connections
from dynatrain.generation.members import Members

#: What names of the library's own groups begin with.
_NAMES = "dynatrain/"
_beside_training = threading.local()


class GroupWanted(BaseException):
    """A group that does not stand is asked for where nobody may wait for its other members.

    No error: whoever has the other members do the same calls ``make()`` in a thread, and has done
    again what asked for it.
    """

    def __init__(self, make: Callable[[], None]) -> None:
        super().__init__("a group that is to be made first")
        self.make = make


@contextmanager
def only_groups_that_stand() -> Iterator[None]:
    """Has this thread raise GroupWanted inside rather than make a group of a world."""
    _beside_training.here = True
    try:
        yield
    finally:
        _beside_training.here = False


class WorldGroups:
    """Makes the groups that one rank needs in one world, and ends them.

    No rank that is not in a group takes part in its making.

    Args:
        members: of the generation that the world is made in.
        name: of the world, unique within the generation and the same on all ranks.
        rank: this rank's place in the world.
        timeout: deadline of the making of each group.
        numbers: by place, the number that torch's default group has for the rank there; the place
            itself where none are given.

    Attributes:
        numbers: as given.
    """

    def __init__(
        self,
        members: Members,
        name: str,
        rank: int,
        timeout: timedelta,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self._name = name
        self.rank = rank
        self.numbers = numbers
        self._members = members
        self._address = members.own.address
        self._timeout = timeout
        self._until: float | None = None
        self._num_made: Counter[str] = Counter()
        self._ahead: dict[str, ProcessGroup] = {}
        #: That the world brings with it, once it is made; None where the job has one for all.
        self.default: ProcessGroup | None = None
        self._groups: list[ProcessGroup] = []
        #: Of these groups, where those of the generation are noted, too.
        noted = members.connections
        self.connections = None if noted is None else Connections(noted.patience, noted)
        self._meshes: list[DeviceMesh] = []
        self._noted: set[str] = set()  #: groups of the script

    @contextmanager
    def all_within(self, deadline: timedelta) -> Iterator[None]:
        """Gives all groups that are made inside one deadline together."""
        self._until = time.monotonic() + deadline.total_seconds()
        try:
            yield
        finally:
            self._until = None

    def make(self, purpose: str, ranks: list[int]) -> ProcessGroup:
        """A group of ``ranks`` of the world, this one among them. Collective over them.

        One that was made ahead is taken, once.

        Args:
            purpose: tells groups of equal ranks apart.
            ranks: places, ascending; the group's own ranks are in their order.

        Raises:
            TransportError: a rank did not come, or the group cannot be made here.
            GroupWanted: inside of :func:`only_groups_that_stand`, and it does not.
        """
        kind = _kind(purpose, ranks)
        if kind in self._ahead:
            return self._ahead.pop(kind)
        if getattr(_beside_training, "here", False):
            raise GroupWanted(lambda: self.make_ahead(purpose, ranks))
        return self._made(kind, purpose, ranks)

    def number_of(self, place: int) -> int:
        """What torch's default group, of the job or of this world, calls the rank at a place."""
        return place if self.numbers is None else self.numbers[place]

    def make_of_numbers(self, purpose: str, numbers: Sequence[int]) -> ProcessGroup:
        """As :meth:`make`, of ranks as torch's default group numbers them, in order of places."""
        if self.numbers is None:
            return self.make(purpose, [*numbers])
        place_of = {number: place for place, number in enumerate(self.numbers)}
        return self.make(purpose, [place_of[number] for number in numbers])

    def make_ahead(self, purpose: str, ranks: list[int]) -> None:
        """Makes what :meth:`make` is to return for these ranks, in any thread. Collective."""
        kind = _kind(purpose, ranks)
        self._ahead[kind] = self._made(kind, purpose, ranks)

    def _made(self, kind: str, purpose: str, ranks: list[int]) -> ProcessGroup:
        self._num_made[kind] += 1
        name = f"{_NAMES}{self._members.name}/{self._name}/{kind}/{self._num_made[kind]}"
        store, deadline = self._members.store_of(self._name), self._deadline()
        told = _told_of(f"ranks {ranks} for {purpose}", deadline)
        with room_for_groups(len(ranks)), told, self._gloo():
            numbers = [self.number_of(place) for place in ranks]
            own = self.number_of(self.rank)
            group = listed_group(store, name, numbers, own, deadline, self.default)
        self._took(group, store, name)
        return group

    def make_default(self, kind: GroupKind, num_ranks: int) -> ProcessGroup:
        """A group of all ranks of the world that can be torch's default one. Collective over them.

        Raises:
            TransportError: as of :meth:`make`.
        """
        name = f"{_NAMES}{self._members.name}/{self._name}"
        store, deadline = self._members.store_of(self._name), self._deadline()
        told = _told_of(f"all {num_ranks} ranks of the world", deadline)
        with room_for_groups(num_ranks), told, self._gloo():
            group = group_to_be_default(kind, store, name, (self.rank, num_ranks), deadline)
        self._took(group, store, name)
        self.default = group
        return group

    def note_those_of_script(self) -> None:
        """Notes groups that the script has made by torch itself, so that they are cut with these.

        A message to the store for each that is new.

        Raises:
            TransportError: the connections of this world have been cut.
        """
        if self.connections is None:
            return
        for name, (group, store) in groups_of_others(_NAMES).items():
            if name not in self._noted:
                self._noted.add(name)
                self.connections.note(store, GLOO_KEYS, (group.rank(), group.size()))
                for backend in backends_that_abort(group):
                    self.connections.note_backend(backend)

    def _gloo(self) -> AbstractContextManager[None]:
        """Where groups of a job whose members come and go listen, and how they are waited for."""
        if self.connections is None:
            return nullcontext()
        return gloo_by(partial(self.connections.group, address=self._address))

    def _took(self, group: ProcessGroup, store: Store, name: str) -> None:
        self._groups.append(group)
        if self.connections is not None:
            prefix, backends = parts_of_group(group, name)
            self.connections.note(store, prefix, (group.rank(), group.size()))
            for backend in backends:
                self.connections.note_backend(backend)

    def _deadline(self) -> timedelta:
        if self._until is None:
            return self._timeout
        left = max(self._until - time.monotonic(), 0.001)
        return timedelta(milliseconds=max(1, int(left * 1000)))  # as C++ keeps it

    def are_of(self, mesh: DeviceMesh) -> None:
        """Says that ``mesh`` stands on some of these groups; it ends with them."""
        self._meshes.append(mesh)

    def end(self) -> None:
        """Takes the groups from torch and meshes; their threads end with the last who holds one."""
        while self._meshes:
            forget_groups(self._meshes.pop())
        self._ahead.clear()
        self.default = None
        while self._groups:
            end_group(self._groups.pop())


def _kind(purpose: str, ranks: list[int]) -> str:
    return f"{purpose}/{hashlib.sha256(repr(ranks).encode()).hexdigest()[:16]}"


@contextmanager
def _told_of(who: str, deadline: timedelta) -> Iterator[None]:
    """Tells of a group that cannot be made; what Gloo raises has no class of its own."""
    try:
        yield
    except RuntimeError as error:
        if is_refused(error):
            raise
        raise TransportError(
            f"world: the group of {who} could not be made: {error}\n"
            f"  expected all of them within {deadline.total_seconds():g} s\n"
            "  the present world and state are intact\n"
            "  see the output of these ranks; if all are alive, call again on all of them"
        ) from error
