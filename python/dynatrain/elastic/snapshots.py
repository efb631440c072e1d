"""Snapshots of a member's state: copied every few steps, kept by a partner, taken after a loss."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch._C._distributed_c10d import PrefixStore, Store

from dynatrain import _native
from dynatrain.adapters.port import Adapter, Inventory
from dynatrain.elastic.cadence import Cadence
from dynatrain.elastic.checkpoint_folder import CheckpointFolder
from dynatrain.elastic.copies import CopiedState, Snapshot, SnapshotSlots, StateReader
from dynatrain.elastic.missing import Read
from dynatrain.elastic.partners import Brought
from dynatrain.elastic.rounds import GROWN, Begins, Means, Rounds
from dynatrain.elastic.sharing import Part, Sharing
from dynatrain.generation.connections import Connections
from dynatrain.generation.held import Held
from dynatrain.generation.members import Members
from dynatrain.given import described
from dynatrain.switch.present import Present

_log = logging.getLogger("dynatrain.elastic")


@dataclass(frozen=True)
class Noted:
    """A state as it was before a switch that frees it.

    Attributes:
        inventory: of it.
        table: of its tensors.
        rank: of this member in its meshes.
        told: what a copy would tell, without a version or a run.
        own_kept: state of kept objects that belong to this rank, encoded.
    """

    inventory: Inventory
    table: _native.StateTable
    rank: int
    told: CopiedState
    own_kept: dict[str, bytes]


class Snapshots:
    """The copies of one member, and when they are made; belongs to the training thread.

    Two versions have room. The last one that all members and partners have whole stays until a
    newer one is: a copy that is given up, for whatever reason, costs the older one nothing.

    What lies here is of the steps that led to the present state: :meth:`go_on` forgets what lies
    behind that, and the membership machine has a member that took no part in a change call
    :meth:`forget`. So one number tells a version on all members, however often the job goes back.

    Args:
        cadence: how often, and what is made of copies.
        adapter: of the state's framework.
        present: what the rank is now.
        means: see there.
    """

    def __init__(
        self, cadence: Cadence, adapter: Adapter[Any], present: Present, means: Means
    ) -> None:
        self._cadence = cadence
        self._adapter = adapter
        self._now = present
        self._means = means
        self._reader = StateReader(adapter, present)
        self._copier: _native.Copier | None = None
        self._slots = SnapshotSlots()
        self._rounds: Rounds | None = None
        self._begins = Begins(version=-1)  #: the present world
        self._saved: list[int] = []  #: versions that have come to disk in it, until it was halted
        self.ends_at = -1  #: the last step of the script, where it is known
        self._member = ""  #: id of this one in the present world; empty where it has no place there

    # ---- while the world trains ----------------------------------------------------------------

    def go_on(self, begins: Begins, members: Members, store: Callable[[], Store]) -> None:
        """A new world begins; forgets what does not lead to its state.

        A member that has no place in it keeps its copies: the others have none of this world yet.

        Args:
            begins: how the world does.
            members: of its generation, those that train first.
            store: makes a connection to the job's store; called in a thread.
        """
        self.follow(begins)
        self._slots.forget_parts(with_memory=self._cadence.is_idle)  # the state is whole again
        num_trainers = begins.layout.world_size
        trains = members.rank < num_trainers
        self._member = members.own.id if trains else ""

        def trainers(connections: Connections) -> Members:
            own = PrefixStore(f"{members.name}/snapshots", store())
            each = members.each[:num_trainers]
            return Members(members.name, members.rank, each, own, connections=connections)

        if self._cadence.is_idle:
            return
        if trains and (num_trainers > 1 or self._cadence.folder is not None):
            self._begin(trainers)

    def follow(self, begins: Begins) -> None:
        """The same where the state of the new world does not stand here: nothing is copied."""
        self.halt()
        self._reader.forget()
        self._slots.follow(begins.version)
        self._begins, self._saved = begins, []

    def _begin(self, members: Callable[[Connections], Members]) -> None:
        rounds = Rounds(self._cadence, self._slots, self._means, members, self._begins)
        rounds.boundaries.last = self.ends_at
        try:
            rounds.start()
        except RuntimeError as error:  # the world stands already, and trains without
            _log.warning("no snapshots in this world, the older one stands: %s", error)
        else:
            self._rounds = rounds

    def at_boundary(self, version: int) -> None:
        """A step may begin, after ``version`` completed ones: copies the state where that is due.

        Blocks for that copy alone. Raises nothing: a copy that fails is given up.
        """
        rounds = self._rounds
        if rounds is None:
            return
        wanted = rounds.boundaries.wanted_at(version)
        if wanted == "size":
            rounds.boundaries.measured(self._size())
        elif wanted == "copy":
            begin = time.perf_counter()
            brought = self._copied(version)
            rounds.boundaries.bring(brought, time.perf_counter() - begin)

    def at_end(self, version: int, is_over: Callable[[], bool]) -> None:
        """The script has done its last step: a checkpoint that is due, or under way, is waited for.

        No longer than until ``is_over``, which is looked at again and again, nor than the thread of
        the rounds lives, whose waits have deadlines.
        """
        rounds = self._rounds
        if rounds is None or self._cadence.folder is None:
            return
        _log.info("the last step is done; a checkpoint that is due, or under way, is waited for")

        def is_vain() -> bool:
            return is_over() or not rounds.is_alive()

        rounds.boundaries.await_rest(is_vain)
        rounds.boundaries.await_next(is_vain)
        self.at_boundary(version)
        rounds.boundaries.await_rest(is_vain)

    def _size(self) -> int:
        try:
            with self._adapter.undisturbed():
                return self._reader.packed()[1].size_bytes
        except Exception as error:  # noqa: BLE001 - whatever it is, it recurs at the first copy
            _log.debug("the state cannot be measured: %s", described(error))
            return 0

    def _copied(self, version: int) -> Brought:
        """Copies the state into the buffer that is free."""
        slot, size = self._slots.spare, 0
        slot.forget()
        try:
            with self._adapter.undisturbed():
                why = self._adapter.why_not_now(self._now.state)
                if why is not None:
                    return Brought(None, 0, 0, why)
                inventory, packed = self._reader.packed()
                size = packed.size_bytes
                if slot.run is None or slot.run.size_bytes < size:
                    return Brought(None, 0, size, GROWN)
                told = self._reader.told(inventory, version, self._member)
                state = replace(told, size_bytes=size, blob=packed.blob())
                slot.own_kept = self._reader.own_kept()
                seconds = self._means.timeout.total_seconds()
                packed.copy(self._made_copier(), slot.run, [*self._means.after()], seconds)
        except Exception as error:  # noqa: BLE001 - nothing of it may reach the training
            return Brought(None, 0, size, described(error))
        slot.own = state
        return Brought(state, 0, size)

    def _made_copier(self) -> _native.Copier:
        if self._copier is None:
            device = self._means.device
            self._copier = (
                _native.CpuCopier(self._means.num_threads)
                if device.type == "cpu"
                else _native.CudaCopier(device.index)
            )
        return self._copier

    # ---- where a switch frees its source --------------------------------------------------------

    def read(self) -> Noted | None:
        """What a copy of the present state would tell, and where that lies; None without one."""
        now = self._now
        if now.state is None or now.world is None:
            return None
        inventory = self._adapter.inventory(now.state)
        told = self._reader.told(inventory, -1, self._member)
        own_kept = self._reader.own_kept()
        return Noted(inventory, inventory.table(), now.world.rank, told, own_kept)

    @property
    def are_asked_for(self) -> bool:
        """Whether the coordinator asks this member for its copies where it has no place."""
        return self._cadence.snapshot_every is not None and self._slots.whole.own is not None

    def keep(self, version: int, parts: Sequence[Part], sharing: Sharing) -> list[int]:
        """Copies parts of a version, two at most, in place of what is not whole everywhere yet.

        It is a version as any other then, of which other members have other parts. The first is
        kept where the second cannot be, and the other way round.

        Args:
            version: completed steps.
            parts: what there is to tell of each, but for its run, and the part.
            sharing: what there is of memory and time.

        Returns:
            The bytes of those that were kept.

        Raises:
            BudgetError: this host has no memory for any of them, or no time to take it.
            What the copier raises of the first.
        """
        self.halt()
        slot = self._slots.spare
        slot.forget()
        kept = sharing.take_room(slot, parts, self._means.device)
        run, begin = slot.run, 0
        assert run is not None
        for number, (state, packed, own_kept) in enumerate(kept):
            end = begin + packed.size_bytes
            after = [*self._means.after()]
            packed.copy(self._made_copier(), run, after, sharing.seconds_left(), begin)
            slot.sums[number] = run.sum(begin, end)
            size, blob = end - begin, packed.blob()
            told = replace(state, version=version, size_bytes=size, blob=blob)
            slot.own_kept = {**slot.own_kept, **own_kept}
            slot.own, slot.other = (told, None) if number == 0 else (slot.own, told)
            slot.is_of_parts, begin = True, end
        return [packed.size_bytes for _, packed, _ in kept]

    # ---- after a loss --------------------------------------------------------------------------

    def halt(self) -> None:
        """Ends what is under way; what has been copied stays."""
        rounds, self._rounds = self._rounds, None
        if rounds is not None:
            if not rounds.end():
                self._slots = self._slots.without_spare()
            self._saved = [*rounds.saved]

    def forget(self) -> None:
        """Lets go of all copies, and of their memory; of a member that is in no world."""
        self.halt()
        self._slots = SnapshotSlots()

    @property
    def versions(self) -> list[int]:
        """What this member has copies of, its own at least; newest first."""
        return self._slots.versions

    @property
    def checkpoints(self) -> CheckpointFolder | None:
        """The folder of the job's checkpoints; None where it makes none."""
        return self._cadence.folder

    def find(self) -> list[int]:
        """All versions on disk, whoever has written them, and of copies; in any thread.

        Raises:
            OSError: the folder cannot be read.
        """
        found = [] if self._cadence.folder is None else self._cadence.folder.find()
        return [*dict.fromkeys([*found, *self.versions])]

    @property
    def on_disk(self) -> list[int]:
        """Versions of which there is a checkpoint of the steps that led to the present state.

        What was there when its world began is: it was swept then. Of what has come since, what this
        member has heard of.
        """
        folder = self._cadence.folder
        found = [] if folder is None else folder.versions
        return [each for each in found if each <= self._begins.version or each in self._saved]

    def copied_of(self, version: int, holders: Collection[str]) -> tuple[str, ...]:
        """Of whom there are copies of a version, but for members that are among ``holders``."""
        slot = self._slots.of(version)
        if slot is None:
            return ()
        other = slot.other
        assert slot.own is not None
        return (
            slot.own.member,
            *(() if other is None or other.member in holders else (other.member,)),
        )

    def keeps_for_another(self, version: int, holders: Collection[str]) -> bool:
        """Whether the copies of a version are also of a member that is not among ``holders``."""
        slot = self._slots.of(version)
        return slot is not None and slot.other is not None and slot.other.member not in holders

    def held(
        self, version: int, holders: Collection[str], read: Read | None = None
    ) -> tuple[Held, dict[str, Any]] | None:
        """What this member brings to a recovery, and what kept objects of its rank were.

        Args:
            version: that all go back to.
            holders: ids of the members that bring something themselves.
            read: what it has read of a checkpoint besides.

        Raises:
            TransportError: the copies are not what they were.
            BudgetError: this host has no memory for both.
        """
        slot = self._slots.of(version)
        own_kept = {} if slot is None else slot.own_kept
        more = None
        if read is not None and read.state is not None and read.run is not None:
            more = read.state, read.run
            own_kept = {**read.own_kept, **own_kept}
        if slot is None and more is None:
            return None
        decoded = {name: self._adapter.decode(blob) for name, blob in own_kept.items()}
        return (slot or Snapshot()).held(self._means.device, holders, more), decoded
