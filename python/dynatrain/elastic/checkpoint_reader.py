"""A checkpoint on disk as a source: what it holds, which of it is read by whom, and the reading."""

from __future__ import annotations

import hashlib
import math
import zlib
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass, field
from datetime import timedelta
from heapq import heapify, heapreplace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem

from dynatrain import _native
from dynatrain._errors import BudgetError, LayoutError, of_family
from dynatrain._threads import Beside
from dynatrain.elastic.checkpoint_files import (
    METADATA,
    VALUE,
    Corners,
    Index,
    Piece,
    read_index,
    sum_of,
    torch_dtype,
)
from dynatrain.elastic.copies import bytes_of
from dynatrain.given import described

_T = TypeVar("_T")
#: Of memory that is left, what reading may take: what is full ends processes.
_MOST_OF_LEFT = 0.9
_ALIGNMENT = 64  #: of pieces of a run, as the core packs them


@dataclass(frozen=True)
class Wanted:
    """Boxes of one entry that are wanted.

    Attributes:
        name: of the tensor.
        entry: first element of the entry.
        boxes: in the entry, apart from each other.
        size_bytes: of the boxes.
    """

    name: str
    entry: tuple[int, ...]
    boxes: tuple[Corners, ...]
    size_bytes: int


def in_time(work: Callable[[], _T], folder: Path, patience: timedelta) -> _T:
    """What ``work`` reads of a checkpoint; a disk that hangs holds a thread, and nobody else.

    Raises:
        LayoutError: it has not been read within ``patience``; an older one may be.
        DeviceError: there is no thread.
    """
    reading: Future[_T] = Future()

    def read() -> None:
        try:
            reading.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            reading.set_exception(error)

    try:
        Beside("dynatrain reads a checkpoint", read).start()
    except RuntimeError as error:
        raise of_family(error, "reading a checkpoint") from error
    seconds = patience.total_seconds()
    try:
        return reading.result(seconds)
    except TooLate:
        if reading.done():
            return reading.result()
        raise _not_used(folder, f"it has not been read within {seconds:g} s") from None


def _not_used(folder: Path, why: str) -> LayoutError:
    return LayoutError(
        f"checkpoint: {folder} is not used: {why}\n"
        "  expected what this version of dynatrain has written there, whole\n"
        "  nothing was moved, and the checkpoint is as it was\n"
        "  an older one is tried where there is one; remove this one if it is of no use"
    )


#: Where boxes of an entry lie in a run, by name and first element of the entry.
_Places = dict[tuple[str, tuple[int, ...]], list[Piece]]


class Checkpoint:
    """One that the library has written, as it is read again.

    Args:
        folder: of it.

    Raises:
        LayoutError: it is damaged, or of something else.

    Attributes:
        index: what the library's file says.
        tensors: shape, dtype and entries of each, by name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index: Index
        self.tensors: dict[str, tuple[tuple[int, ...], str, list[Corners]]] = {}
        try:
            self.index = read_index(folder)
            if zlib.crc32((folder / METADATA).read_bytes()) != self.index.metadata_sum:
                raise ValueError(f"{METADATA} has another sum than when it was written")
            self._reader = FileSystemReader(folder)
            self._metadata: Metadata = self._reader.read_metadata()
            self._reader.set_up_storage_reader(self._metadata, True)
            self._take_note()
        except Exception as error:  # a damaged file has torch raise all kinds of them
            raise self._refused(error) from error

    def _take_note(self) -> None:
        for name, entry in self._metadata.state_dict_metadata.items():
            if name.startswith(VALUE) or not isinstance(entry, TensorStorageMetadata):
                continue
            dtype = str(entry.properties.dtype).removeprefix("torch.")
            boxes = [_box_of(chunk.offsets, chunk.sizes) for chunk in entry.chunks]
            dtype = self.index.dtypes.get(name, dtype)
            self.tensors[name] = tuple(entry.size), dtype, sorted(boxes)

    def _refused(self, error: Exception) -> LayoutError:
        return _not_used(self.folder, described(error))

    # ---- who reads what ------------------------------------------------------------------------

    def wanted(self, missing: Mapping[str, Sequence[Corners]]) -> list[Wanted]:
        """What of which entries is to be read where these boxes of tensors are missing.

        A box that no entry has a part of is left out: it stays without an owner.
        """
        found = []
        for name, holes in missing.items():
            _, dtype, entries = self.tensors[name]
            itemsize, by_entry = torch_dtype(dtype).itemsize, dict[Corners, list[Corners]]()
            for entry, box in _overlaps(holes, entries):
                by_entry.setdefault(entry, []).append(box)
            for entry, boxes in by_entry.items():
                size = sum(map(_num_elements, boxes)) * itemsize
                found.append(Wanted(name, entry[0], tuple(boxes), size))
        return found

    # ---- reading -------------------------------------------------------------------------------

    def read(self, wanted: Sequence[Wanted]) -> tuple[_native.HostRun, bytes]:
        """The wanted boxes in host memory, and what lies where, as packed_table() takes it.

        Raises:
            LayoutError: an entry is damaged, or lacks.
            BudgetError: this host has no memory for them.
        """
        places, size = self._laid_out(wanted)
        run = self._room(size)
        memory = bytes_of(run)

        def take(name: str, entry: tuple[int, ...], data: torch.Tensor) -> None:
            for piece in places[name, entry]:
                inner = (slice(b - o, e - o) for b, e, o in zip(*piece.box, entry, strict=True))
                piece.of(memory, piece.box).copy_(data[tuple(inner)])

        self._read([(each.name, each.entry) for each in wanted if each.size_bytes], take)
        return run, self._blob(places, size)

    def read_values(self, digests: Collection[bytes]) -> dict[bytes, bytes]:
        """Contents, by their digests. Raises LayoutError where one is damaged, or lacks."""
        found: dict[bytes, bytes] = {}

        def take(name: str, _: tuple[int, ...], data: torch.Tensor) -> None:
            content = data.numpy().tobytes()
            digest = bytes.fromhex(name.removeprefix(VALUE))
            if hashlib.sha256(content).digest() != digest:
                raise ValueError(f"{name} has another digest than its name says")
            found[digest] = content

        empty = hashlib.sha256(b"").digest()
        self._read([(f"{VALUE}{each.hex()}", (0,)) for each in digests if each != empty], take)
        return {**found, **({empty: b""} if empty in digests else {})}

    def _read(
        self,
        entries: Sequence[tuple[str, tuple[int, ...]]],
        take: Callable[[str, tuple[int, ...], torch.Tensor], None],
    ) -> None:
        planner = _Planner(self._metadata, self.index, take)
        try:
            self._reader.read_data(planner.plan(entries), planner).wait()
        except Exception as error:  # as above
            raise self._refused(error) from error

    def _laid_out(self, wanted: Sequence[Wanted]) -> tuple[_Places, int]:
        places, offset = _Places(), 0
        for each in wanted:
            shape, dtype, _ = self.tensors[each.name]
            itemsize = torch_dtype(dtype).itemsize
            pieces = places[each.name, each.entry] = []
            for box in each.boxes:
                pieces.append(Piece(shape, dtype, box, offset))
                size = _num_elements(box) * itemsize
                offset += -(-size // _ALIGNMENT) * _ALIGNMENT
        return places, offset

    def _room(self, size: int) -> _native.HostRun:
        left = _native.available_host_bytes()
        try:
            if size > left * _MOST_OF_LEFT:
                raise MemoryError(f"{left} bytes are left on this host")
            return _native.HostRun(size)
        except MemoryError as error:
            raise BudgetError(
                f"checkpoint: no memory for {size} bytes of {self.folder}\n  {error}\n"
                "  nothing was moved; the checkpoint is as it was\n"
                "  leave more host memory free, or let more members take part"
            ) from error

    def _blob(self, places: _Places, size: int) -> bytes:
        by_name: dict[str, list[Piece]] = {}
        for (name, _), pieces in places.items():
            by_name.setdefault(name, []).extend(pieces)
        table = _native.StateTable()
        for name, pieces in by_name.items():
            shape, dtype, _ = self.tensors[name]
            itemsize = torch_dtype(dtype).itemsize
            fragments = [
                (*piece.box, piece.offset_bytes // itemsize, _strides(piece.box))
                for piece in pieces
                if _num_elements(piece.box)
            ]
            table.add_fragments(name, shape, dtype, itemsize, fragments, 0, size)
        return table.encode()


@dataclass
class _Planner(LoadPlanner):
    """Has a reader of torch's read whole entries, one at a time, and looks at their sums."""

    checkpoint: Metadata
    index: Index
    take: Callable[[str, tuple[int, ...], torch.Tensor], None]
    _sizes: dict[tuple[str, tuple[int, ...]], torch.Size] = field(default_factory=dict)

    def plan(self, entries: Sequence[tuple[str, tuple[int, ...]]]) -> LoadPlan:
        """To read these entries."""
        for name in {name for name, _ in entries}:
            for chunk in self._of(name).chunks:
                self._sizes[name, tuple(chunk.offsets)] = chunk.sizes
        items = []
        for name, begin in entries:
            sizes, index = self._sizes[name, begin], MetadataIndex(name, torch.Size(begin))
            zeros = torch.Size([0] * len(begin))
            items.append(ReadItem(LoadItemType.TENSOR, index, zeros, index, zeros, sizes))
        return LoadPlan(items)

    def _of(self, name: str) -> TensorStorageMetadata:
        found = self.checkpoint.state_dict_metadata[name]
        assert isinstance(found, TensorStorageMetadata)
        return found

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """Memory for one entry."""
        dtype = self._of(read_item.dest_index.fqn).properties.dtype
        return torch.empty(read_item.lengths, dtype=dtype)

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """Hands an entry on that is what was written."""
        name, begin = read_item.dest_index.fqn, tuple(read_item.dest_index.offset or ())
        if sum_of(tensor) != self.index.sums[name][begin]:
            raise ValueError(
                f"the entry of {name!r} at {list(begin)} has another sum than when it was written"
            )
        self.take(name, begin, tensor)

    def set_up_planner(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: all that it needs is given."""

    def create_local_plan(self) -> LoadPlan:
        """Nothing by itself: see :meth:`plan`."""
        return LoadPlan([])

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """As they are."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        """Refuses: no entry of the library's is an object of torch's."""
        raise ValueError(f"{read_item.dest_index.fqn!r} is an object, of which none is written")


def shared_out(wanted: Sequence[Wanted], num_readers: int) -> list[list[Wanted]]:
    """Who reads what: each entry one reader, and all about as many bytes; the same everywhere."""
    shares: list[list[Wanted]] = [[] for _ in range(num_readers)]
    loads = [(0, reader) for reader in range(num_readers)]
    heapify(loads)
    for each in sorted(wanted, key=lambda each: (-each.size_bytes, each.name, each.entry)):
        load, reader = loads[0]
        shares[reader].append(each)
        heapreplace(loads, (load + each.size_bytes, reader))
    return shares


def _overlaps(
    holes: Sequence[Corners], entries: Sequence[Corners]
) -> Iterator[tuple[Corners, Corners]]:
    """Each sorted entry that a hole has a part of, with that part."""
    if entries and not entries[0][0]:  # a tensor of no dimension
        yield from ((entries[0], hole) for hole in holes)
        return
    firsts = [begin[0] for begin, _ in entries]
    tallest = max((end[0] - begin[0] for begin, end in entries), default=0)
    for begin, end in holes:
        low = bisect_left(firsts, begin[0] - tallest)
        for entry in entries[low : bisect_left(firsts, max(end[0], begin[0] + 1))]:
            box = (
                tuple(map(max, begin, entry[0])),
                tuple(map(min, end, entry[1])),
            )
            if _num_elements(box) or entry == (begin, end):
                yield entry, box


def _box_of(offsets: torch.Size, sizes: torch.Size) -> Corners:
    return tuple(offsets), tuple(b + s for b, s in zip(offsets, sizes, strict=True))


def _num_elements(box: Corners) -> int:
    return math.prod(max(0, e - b) for b, e in zip(*box, strict=True))


def _strides(box: Corners) -> list[int]:
    extents = [e - b for b, e in zip(*box, strict=True)]
    return [math.prod(extents[dim + 1 :]) for dim in range(len(extents))]
