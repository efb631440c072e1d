"""What neither a member nor a copy has of a version: found by all, read from a checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from dynatrain import _native, words
from dynatrain._errors import LayoutError
from dynatrain.elastic.checkpoint_files import APART, OWN, PARTS, Corners
from dynatrain.elastic.checkpoint_folder import CheckpointFolder
from dynatrain.elastic.checkpoint_reader import Checkpoint, in_time, shared_out
from dynatrain.elastic.copies import CopiedState
from dynatrain.generation.engine import Engine
from dynatrain.generation.held import Source
from dynatrain.generation.seats import Seats
from dynatrain.layout import Layout
from dynatrain.switch.encoded import ANOTHER, PER_RANK, SHARED, add_another

_PHASE = "reading the checkpoint"
#: The part of ``timeout_s`` that a disk has for what is read of it; the ranks wait for all of that.
_READING = 3 / 4


@words.record
@dataclass(frozen=True)
class Brings:
    """What a member brings to a recovery before a checkpoint is read.

    Attributes:
        of: ids of the members of whose state it has a part.
        is_live: it trains on from memory in which it has trained.
        is_copied: it has a copy of that version.
        sees: it sees a checkpoint of that version.
    """

    of: tuple[str, ...]
    is_live: bool
    is_copied: bool
    sees: bool

    @property
    def can_read(self) -> bool:
        """Whether what it reads has a place beside what it brings: a live state has none."""
        return self.is_copied or not self.is_live


@dataclass(frozen=True)
class Read:
    """What a member has read of a checkpoint.

    Attributes:
        state: what it is, as of a member; None where this one reads nothing.
        run: the bytes of its tensors.
        own_kept: what kept objects of this rank were, encoded.
        not_live: ids of the members that bring no live state any more.
    """

    state: CopiedState | None
    run: _native.HostRun | None
    own_kept: Mapping[str, bytes]
    not_live: frozenset[str]


@dataclass(frozen=True)
class Recovery:
    """What a member takes part in.

    Attributes:
        version: that all go back to.
        seats: whose live state is told by meshes.
        source: what this member brings.
        brings: the same, in words.
    """

    version: int
    seats: Seats
    source: Source
    brings: Brings


def read_missing(engine: Engine, folder: CheckpointFolder, recovery: Recovery) -> Read | None:
    """Reads what is missing of a version, each part by one member. Collective.

    A member with a live state has no place for more. Where it has a copy, that takes the place of
    the state; where none can read, all bring nothing, and everything is read.

    Returns:
        None where nothing is missing, or no member sees a checkpoint of that version.

    Raises:
        LayoutError: it is damaged, of another state, or not there for all.
        BudgetError: a host has no memory for what it reads.
        TransportError: a member does not answer.
    """
    told = engine.control.gather(recovery.brings, _PHASE)
    if not any(each.sees for each in told):
        return None
    ids = [member.id for member in engine.generation.members.each]
    live = {ids[rank] for rank, each in enumerate(told) if each.is_live}
    side = engine.together(_PHASE, lambda: engine.read(recovery.source))
    seats = recovery.seats.without({*recovery.seats.ids} - live)
    present = engine.publish_map(side, seats)
    path, patience = folder.of(recovery.version), engine.options.timeout * _READING
    checkpoint = engine.together(
        _PHASE, lambda: in_time(lambda: _opened(folder, recovery.version), path, patience)
    )
    missing = engine.together(_PHASE, lambda: missing_in(present, checkpoint))
    if not missing:
        return None
    readers = [rank for rank, each in enumerate(told) if each.can_read]
    there = {each for brought in told for each in brought.of}
    not_live = {ids[rank] for rank in readers} & live
    if not readers:
        readers, there, not_live = [*range(len(told))], set(), live
        missing = missing_in(None, checkpoint)
    number = readers.index(engine.rank) if engine.rank in readers else None
    own_id = ids[engine.rank]
    member = "" if own_id in there else _heir_of(checkpoint.index.members, ids, engine.rank)

    def read() -> Read:
        if number is None:
            return Read(None, None, {}, frozenset())
        share = _Share(checkpoint, number, len(readers))
        return in_time(lambda: share.read(missing, there, member), path, patience)

    return replace(engine.together(_PHASE, read), not_live=frozenset(not_live))


def _heir_of(members: Sequence[str], ids: Sequence[str], rank: int) -> str:
    """The member of a checkpoint whose values go to a rank: itself.

    Where none of those that wrote it is there any more, ranks take places in their order.
    """
    if not set(members).isdisjoint(ids):
        return ids[rank]
    return members[rank] if rank < len(members) else ""


def seats_in(folder: CheckpointFolder, version: int, timeout: timedelta) -> Seats:
    """The places of the world that has written a checkpoint, nobody's now.

    Raises:
        LayoutError: it is damaged, or of another version, or the disk does not answer in time.
    """
    path, patience = folder.of(version), timeout * _READING
    index = in_time(lambda: _opened(folder, version), path, patience).index
    return Seats(Layout.parse(index.layout), ("",) * len(index.members))


def _opened(folder: CheckpointFolder, version: int) -> Checkpoint:
    found = Checkpoint(folder.of(version))
    if found.index.version != version:
        raise _of_another(found, f"it is of {found.index.version} steps")
    return found


def missing_in(
    present: _native.ShardMap | None, checkpoint: Checkpoint
) -> dict[str, list[Corners]]:
    """The boxes of a checkpoint's tensors that nobody has.

    Raises:
        LayoutError: a tensor is another one there.
    """
    names = set() if present is None else set(present.names())
    missing: dict[str, list[Corners]] = {}
    for name, (shape, dtype, _) in checkpoint.tensors.items():
        if name not in names:
            missing[name] = [((0,) * len(shape), shape)]
            continue
        assert present is not None
        held_shape, held_dtype, _ = present.info(name)
        if (tuple(held_shape), held_dtype) != (shape, dtype):
            what = f"{name!r} is {dtype} {list(shape)} there, and {held_dtype} {held_shape} here"
            raise _of_another(checkpoint, what)
    for name, boxes in [] if present is None else present.holes():
        if name in checkpoint.tensors:
            missing[name] = [(tuple(begin), tuple(end)) for begin, end in boxes]
    return missing


def _of_another(checkpoint: Checkpoint, why: str) -> LayoutError:
    return LayoutError(
        f"checkpoint: {checkpoint.folder} is of another state: {why}\n"
        "  expected a checkpoint of this job at that step\n"
        "  nothing was moved, and the checkpoint is as it was\n"
        "  give each job a checkpoint_dir of its own"
    )


@dataclass(frozen=True)
class _Share:
    """What one of several readers reads of a checkpoint."""

    checkpoint: Checkpoint
    number: int
    num_readers: int

    def read(
        self, missing: Mapping[str, Sequence[Corners]], there: Collection[str], member: str
    ) -> Read:
        """Its part of what is missing.

        Args:
            missing: boxes of tensors.
            there: members whose part somebody has.
            member: id of this one, whose own values it takes; empty where it brings them.
        """
        index = self.checkpoint.index
        boxes = shared_out(self.checkpoint.wanted(missing), self.num_readers)[self.number]
        run, blob = self.checkpoint.read(boxes)
        shared = self._shared(there)
        own = self._own(member)
        contents = self.checkpoint.read_values({digest for _, digest in [*shared, *own]})
        parts: dict[str, bytes] = {}
        apart: dict[str, bytes] = {}
        kept: dict[str, bytes] = {}
        groups = {PARTS: parts, APART: apart, OWN: kept}
        for name, digest in own:
            group, _, of = name.partition(":")
            groups[f"{group}:"][of] = contents[digest]
        for name, digest in shared:
            group, _, of = name.partition(":")
            add_another(groups[f"{group}:"], of, contents[digest])
        is_apart = any(name.startswith(APART) for name, _, _ in index.held_by)
        for name in self._differing() if self.number == 0 else ():
            parts[f"{ANOTHER}{name}"] = apart[f"{ANOTHER}{name}"] = b""
        state = CopiedState(
            index.epoch,
            index.layout,
            index.version,
            "",
            run.size_bytes,
            blob,
            parts,
            apart if is_apart else None,
            index.copies,
            index.notes,
            index.on_host,
        )
        return Read(state, run, kept, frozenset())

    def _shared(self, there: Collection[str]) -> list[tuple[str, bytes]]:
        """Contents that only members had of whom nobody has anything; this reader's part."""
        members = self.checkpoint.index.members
        gone = {rank for rank, member in enumerate(members) if member not in there}
        wanted = sorted(
            (name, digest)
            for (name, digest, _), ranks in self.checkpoint.index.held_by.items()
            if name.startswith((PARTS + SHARED, APART + SHARED)) and gone.issuperset(ranks)
        )
        return wanted[self.number :: self.num_readers]

    def _own(self, member: str) -> list[tuple[str, bytes]]:
        """What belonged to the place of a member."""
        index = self.checkpoint.index
        if member not in index.members:
            return []
        rank, own = index.members.index(member), (PARTS + PER_RANK, APART + PER_RANK, OWN)
        return [
            (name, digest)
            for (name, digest, _), ranks in index.held_by.items()
            if rank in ranks and name.startswith(own)
        ]

    def _differing(self) -> list[str]:
        """Values that belong to places, and were not the same in all of them."""
        counts = Counter(name for name, _, _ in self.checkpoint.index.held_by)
        of = PARTS + PER_RANK
        return [
            name.removeprefix(PARTS)
            for name, count in counts.items()
            if count > 1 and name.startswith(of)
        ]
