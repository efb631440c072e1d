"""How the members of a world write a checkpoint together, beside training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dynatrain import _native, by_rank, words
from dynatrain._threads import started
from dynatrain.adapters.port import SlotNote
from dynatrain.elastic.checkpoint_files import (
    APART,
    OWN,
    PARTS,
    Corners,
    Index,
    Piece,
    Stored,
    pieces_of,
    write_entries,
    write_index,
)
from dynatrain.elastic.checkpoint_folder import CheckpointFolder
from dynatrain.elastic.checkpoint_shares import own_boxes, writers_of
from dynatrain.elastic.copies import Snapshot, bytes_of
from dynatrain.generation.control import Holders, Listing, holders, listing
from dynatrain.given import described

#: A member that has written nothing to its end for so many quarters of ``timeout_s`` is late.
_MOST_WAITS = 240
#: Brings a part to rank 0, and what that one makes of all parts to all.
Exchange = Callable[[bytes, Callable[[list[bytes]], bytes]], bytes]
#: Waits until something is so, or for so many seconds; raises where the world has ended.
Wait = Callable[[Callable[[], bool], float], None]


@words.record
@dataclass(frozen=True)
class _Offer:
    """What a member could write; see :class:`dynatrain.elastic.copies.CopiedState`."""

    epoch: int
    layout: str
    version: int
    member: str
    blob: bytes
    listed: Listing
    copies: Mapping[str, tuple[tuple[str, str], ...]]
    notes: frozenset[SlotNote]
    on_host: frozenset[str]


@words.record
@dataclass(frozen=True)
class _Asked:
    """What each member is to write.

    Attributes:
        why: there is nothing to write; empty where there is.
        boxes: of tensors of which not every rank writes all that it has: boxes, with the rank.
        contents: the rank that writes each, by digest.
    """

    why: str
    boxes: Mapping[str, tuple[tuple[Corners, int], ...]] = field(default_factory=dict)
    contents: Mapping[bytes, int] = field(default_factory=dict)


@words.record
@dataclass(frozen=True)
class _Status:
    """How far a member is: the boundary it has come to, and what has become of its work."""

    at: int
    is_done: bool
    why: str = ""
    stored: tuple[Stored, ...] = ()


@words.record
@dataclass(frozen=True)
class Verdict:
    """What has become of the work of all.

    Attributes:
        is_over: all are done, or one has failed.
        at: the furthest boundary that one of them has come to.
        why: the reasons of those that failed, by rank.
    """

    is_over: bool
    at: int
    why: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Together:
    """What a world's members write with.

    Attributes:
        folder: of the checkpoints.
        rank: of this member.
        name: of the world's generation, which no other has.
        exchange: over all members.
        wait: see :data:`Wait`.
        wake: has what waits look again.
        at: the boundary that this member has come to.
        timeout_s: deadline of an exchange.
    """

    folder: CheckpointFolder
    rank: int
    name: str
    exchange: Exchange
    wait: Wait
    wake: Callable[[], None]
    at: Callable[[], int]
    timeout_s: float


class Saving:
    """One checkpoint, from the copies of all members to a folder. Used by one thread.

    Rank 0 hears what each has, and says who writes what. Each writes in a thread of its own, and
    meanwhile all tell each other every quarter of ``timeout_s`` that they are at it. When all have
    written, rank 0 writes what all entries are, and the folder gets its name.
    """

    def __init__(self, means: Together) -> None:
        self._means = means
        self._stop = threading.Event()
        self._index: Callable[..., Index] | None = None  # on rank 0, as all that follow
        self._stored: list[Stored] = []

    def save(self, slot: Snapshot) -> Verdict:
        """Writes what is copied. Collective.

        Raises:
            RuntimeError, TransportError: a member does not answer.
        """
        means, state = self._means, slot.own
        assert state is not None
        contents = {f"{PARTS}{name}": blob for name, blob in state.parts.items()}
        contents |= {f"{APART}{name}": blob for name, blob in (state.parts_apart or {}).items()}
        contents |= {f"{OWN}{name}": blob for name, blob in slot.own_kept.items()}
        listed = listing(contents)
        offer = _Offer(
            state.epoch,
            state.layout,
            state.version,
            state.member,
            state.blob,
            listed,
            state.copies,
            state.notes,
            state.on_host,
        )
        asked: _Asked = words.decode(means.exchange(words.encode(offer), self._answer))
        if asked.why:
            return Verdict(True, 0, ((0, asked.why),))
        partial_at = means.folder.partial(state.version, means.name)
        by_digest = {listed[name][0]: blob for name, blob in contents.items()}
        is_whole = False
        try:
            verdict = self._beside(partial(self._write, partial_at, slot, asked, by_digest))
            if not verdict.why:
                finish = partial(self._finish, partial_at, state.version)
                verdict = self._beside(finish if means.rank == 0 else None)
            is_whole = not verdict.why
        finally:
            if not is_whole and means.rank == 0:
                means.folder.give_up(partial_at)
        return verdict

    # ---- in a thread of its own ----------------------------------------------------------------

    def _write(
        self, folder: Path, slot: Snapshot, asked: _Asked, contents: Mapping[bytes, bytes]
    ) -> list[Stored]:
        assert slot.own is not None
        assert slot.run is not None
        rank, run = self._means.rank, bytes_of(slot.run)
        boxes = (
            (name, piece, box, run)
            for name, pieces in pieces_of(slot.own.blob).items()
            for piece, box in own_boxes(pieces, asked.boxes.get(name), rank)
        )
        shapeless = (  # no element, and so no piece
            (name, _nothing_of(box, dtype), box, run)
            for name, shape, dtype, _, pieces in _native.packed_boxes(slot.own.blob)
            if not pieces
            for box, of in asked.boxes.get(name, ())
            if of == rank
        )
        own = {digest: contents[digest] for digest, of in asked.contents.items() if of == rank}
        return write_entries(folder, rank, [*boxes, *shapeless], own, self._check)

    def _finish(self, partial_at: Path, version: int) -> list[Stored]:
        assert self._index is not None
        write_index(partial_at, self._stored, self._index)
        self._check()  # a world that has ended may have undone these steps
        self._means.folder.commit(partial_at, version)
        return []

    def _check(self) -> None:
        if self._stop.is_set():
            raise InterruptedError("the checkpoint was given up meanwhile")

    # ---- beside it -----------------------------------------------------------------------------

    def _beside(self, work: Callable[[], list[Stored]] | None) -> Verdict:
        """Has ``work`` be done in a thread, on all members that have some. Collective."""
        means, done = self._means, threading.Event()
        found: list[Stored] = []
        failed: list[str] = []

        def run() -> None:
            try:
                if work is not None:
                    found.extend(work())
            except Exception as error:  # noqa: BLE001 - all members are to learn of it
                failed.append(described(error))
            finally:
                done.set()
                means.wake()

        if started("dynatrain checkpoint", run) is None:
            failed.append("there is no thread for it")
            done.set()
        try:
            verdict, is_told = Verdict(False, 0), False
            for _ in range(_MOST_WAITS):
                means.wait(done.is_set, means.timeout_s / 4)
                is_done = done.is_set()
                stored = tuple(found) if is_done and not is_told else ()
                status = _Status(means.at(), is_done, "".join(failed), stored)
                is_told = is_told or is_done
                verdict = words.decode(means.exchange(words.encode(status), self._judge))
                if verdict.is_over:
                    break
            if verdict.is_over:
                return verdict
            late = f"some members have written for {_MOST_WAITS / 4 * means.timeout_s:g} s"
            return Verdict(True, verdict.at, ((0, late),))
        finally:
            if not done.is_set() or failed:
                self._stop.set()

    # ---- on rank 0 -----------------------------------------------------------------------------

    def _judge(self, parts: list[bytes]) -> bytes:
        each: list[_Status] = [words.decode(part) for part in parts]
        for status in each:
            self._stored += status.stored
        why = tuple((rank, status.why) for rank, status in enumerate(each) if status.why)
        is_over = bool(why) or all(status.is_done for status in each)
        return words.encode(Verdict(is_over, max(status.at for status in each), why))

    def _answer(self, parts: list[bytes]) -> bytes:
        try:
            return words.encode(self._asked([words.decode(part) for part in parts]))
        except Exception as error:  # noqa: BLE001 - all members are to learn of it
            return words.encode(_Asked(described(error)))

    def _asked(self, offers: Sequence[_Offer]) -> _Asked:
        first = offers[0]
        by_blob: dict[bytes, list[int]] = {}
        for rank, offer in enumerate(offers):
            by_blob.setdefault(offer.blob, []).append(rank)
        shard_map = _native.ShardMap.merge([*by_blob.items()])
        shard_map.prove_coverage()
        held_by = holders([offer.listed for offer in offers])
        self._index = partial(_index_of, offers, held_by)
        self._means.folder.begin(first.version, self._means.name)
        contents: dict[bytes, int] = {}
        for (_, digest, size), ranks in held_by.items():
            if size:
                contents.setdefault(digest, ranks[0])
        return _Asked("", writers_of(shard_map), contents)


def _index_of(
    offers: Sequence[_Offer],
    held_by: Holders,
    *,
    dtypes: Mapping[str, str],
    sums: Mapping[str, Mapping[tuple[int, ...], int]],
    metadata_sum: int,
) -> Index:
    copies: dict[str, set[tuple[str, str]]] = {}
    for offer in offers:
        for fqn, pairs in offer.copies.items():
            copies.setdefault(fqn, set()).update(pairs)
    return Index(
        offers[0].version,
        offers[0].epoch,
        offers[0].layout,
        tuple(offer.member for offer in offers),
        held_by,
        {fqn: tuple(sorted(pairs)) for fqn, pairs in copies.items()},
        frozenset[SlotNote]().union(*(offer.notes for offer in offers)),
        frozenset[str]().union(*(offer.on_host for offer in offers)),
        dtypes,
        sums,
        metadata_sum,
    )


def _nothing_of(box: Corners, dtype: str) -> Piece:
    return Piece(box[1], dtype, box, 0)


def why_of(verdict: Verdict) -> str:
    """Why a checkpoint was given up, one line for each reason."""
    return by_rank.lines(dict(verdict.why))
