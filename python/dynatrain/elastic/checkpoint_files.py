"""A state in the files of a checkpoint of ``torch.distributed.checkpoint``: written, and read.

A tensor is an entry under its own name, cut into boxes that no two members write. What is no tensor
is encoded as ranks tell it each other, and each distinct content is an entry of bytes, a tensor of
uint8, under its digest: no object is pickled that is not torch's own. Which content is whose stands
in a file of the library's beside torch's metadata, with a sum of every entry: torch's formats have
none that is looked at.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)

from dynatrain import _native, words
from dynatrain._torch_private.checkpoint import place_of, prefix_of, written_at
from dynatrain.adapters.port import SlotNote
from dynatrain.generation.control import Holders

#: First and past-the-end element of a box, by dimension.
Corners = tuple[tuple[int, ...], tuple[int, ...]]
INDEX = "dynatrain.index"
METADATA = ".metadata"
#: Before the digest of a content, in the name of its entry.
VALUE = "dynatrain.value/"
#: Larger boxes are cut: an entry is what one member reads, and what is held twice while it is.
_ENTRY_BYTES = 32 << 20
_FIRST_LINE = b"dynatrain checkpoint 1 "


@words.record
@dataclass(frozen=True)
class Stored:
    """One entry that a member has written.

    Attributes:
        name: of its tensor.
        shape: of the whole tensor.
        dtype: as maps name it.
        box: of the entry.
        place: file, first byte and length.
        sum: of its elements' bytes, CRC-32.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    box: Corners
    place: tuple[str, int, int]
    sum: int


@words.record
@dataclass(frozen=True)
class Index:
    """What the library's own file of a checkpoint says.

    Attributes:
        version: completed steps.
        epoch: of the world that wrote it.
        layout: of that world.
        members: ids of its members, by rank.
        held_by: which ranks have which content; names have their group before them, see ``GROUPS``.
        copies: see :class:`dynatrain.generation.held.Held`; so those that follow.
        notes: see there.
        on_host: see there.
        dtypes: of tensors whose bytes are read in a way that torch's dtype does not tell.
        sums: of each entry of a tensor, by its name and its first element.
        metadata_sum: of torch's file.
    """

    version: int
    epoch: int
    layout: str
    members: tuple[str, ...]
    held_by: Holders
    copies: Mapping[str, tuple[tuple[str, str], ...]]
    notes: frozenset[SlotNote]
    on_host: frozenset[str]
    dtypes: Mapping[str, str]
    sums: Mapping[str, Mapping[tuple[int, ...], int]]
    metadata_sum: int


#: Groups of contents: a state's values, those where tied names are told apart, and what kept
#: objects have of their rank alone.
PARTS, APART, OWN = GROUPS = ("parts:", "apart:", "own:")


@dataclass(frozen=True)
class Piece:
    """A box that lies dense in a run.

    Attributes:
        shape: of the whole tensor.
        dtype: as maps name it.
        box: of the piece.
        offset_bytes: where it begins.
    """

    shape: tuple[int, ...]
    dtype: str
    box: Corners
    offset_bytes: int

    def of(self, run: torch.Tensor, box: Corners) -> torch.Tensor:
        """The elements of ``box``, which lies in this one; a view of the run."""
        dtype = torch_dtype(self.dtype)
        extents = [end - begin for begin, end in zip(*self.box, strict=True)]
        size = math.prod(extents) * dtype.itemsize
        whole = run[self.offset_bytes : self.offset_bytes + size].view(dtype).view(extents)
        return whole[tuple(slice(b - o, e - o) for b, e, o in zip(*box, self.box[0], strict=True))]


def pieces_of(blob: bytes) -> dict[str, list[Piece]]:
    """What lies in a run, by tensor, as :meth:`PackedState.blob` tells it."""
    return {
        name: [
            Piece(tuple(shape), dtype, (tuple(begin), tuple(end)), offset)
            for begin, end, offset in pieces
        ]
        for name, shape, dtype, _, pieces in _native.packed_boxes(blob)
    }


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of torch's of which a map says ``name``; its bytes may be read another way."""
    found = getattr(torch, name.partition(".")[0], None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"torch has no dtype {name!r}")
    return found


def sum_of(tensor: torch.Tensor) -> int:
    """CRC-32 of the bytes of a dense tensor."""
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data)


def cut_box(box: Corners, itemsize: int) -> Iterator[Corners]:
    """A box in pieces of rows that are entries."""
    begin, end = box
    rows = end[0] - begin[0] if begin else 1
    size = math.prod(e - b for b, e in zip(begin, end, strict=True)) * itemsize
    if rows < 2 or size <= _ENTRY_BYTES:
        yield box
        return
    height = max(1, rows * _ENTRY_BYTES // size)
    for first in range(begin[0], end[0], height):
        yield (first, *begin[1:]), (min(first + height, end[0]), *end[1:])


@dataclass(frozen=True)
class _Entry:
    """What is to be written: a tensor that is a view of a run, and where it belongs."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    box: Corners
    data: torch.Tensor

    @property
    def item(self) -> WriteItem:
        return _item(self.name, self.shape, self.dtype, self.box)


def _item(name: str, shape: Sequence[int], dtype: str, box: Corners) -> WriteItem:
    begin, end = box
    sizes = [e - b for b, e in zip(begin, end, strict=True)]
    chunk = ChunkStorageMetadata(torch.Size(begin), torch.Size(sizes))
    properties = TensorProperties(dtype=torch_dtype(dtype))
    data = TensorWriteData(chunk, properties, torch.Size(shape))
    index = MetadataIndex(name, torch.Size(begin))
    return WriteItem(index, WriteItemType.SHARD, tensor_data=data)


class _Planner(SavePlanner):
    """Hands a writer of torch's the data of entries; what all ranks plan is planned elsewhere."""

    def __init__(self, entries: Sequence[_Entry], check: Callable[[], None]) -> None:
        self.sums: dict[tuple[str, tuple[int, ...]], int] = {}
        self._entries = {(each.name, each.box[0]): each for each in entries}
        self._check = check

    def set_up_planner(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: all that it needs is given."""

    def create_local_plan(self) -> SavePlan:
        """The entries of this member."""
        return SavePlan([each.item for each in self._entries.values()])

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """The plans of all members, whose entries are apart, and torch's metadata of them."""
        return create_default_global_save_plan(all_plans)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        """As it is."""
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor:
        """The elements of an entry, as a tensor of its own."""
        self._check()
        index = write_item.index
        key = index.fqn, tuple(index.offset or ())
        data = self._entries[key].data.clone(memory_format=torch.contiguous_format)
        self.sums[key] = sum_of(data)
        return data


def write_entries(
    folder: Path,
    rank: int,
    boxes: Iterable[tuple[str, Piece, Corners, torch.Tensor]],
    values: Mapping[bytes, bytes],
    check: Callable[[], None],
) -> list[Stored]:
    """Writes what one member has to, into a file of its own, and has it on disk.

    Args:
        folder: that is there.
        rank: of the member.
        boxes: name, the piece that has the box, the box, and the run that has the piece.
        values: contents by digest.
        check: raises where the writing is to end; called before each entry.

    Raises:
        OSError, RuntimeError: the system does not take it.
        ValueError: torch has no such dtype.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there for this member: all need one file system")
    entries = [
        _Entry(name, piece.shape, piece.dtype, small, piece.of(run, small))
        for name, piece, box, run in boxes
        for small in cut_box(box, torch_dtype(piece.dtype).itemsize)
    ]
    for digest, content in values.items():
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        box = ((0,), (len(content),))
        entries.append(_Entry(f"{VALUE}{digest.hex()}", (len(content),), "uint8", box, data))
    if not entries:
        return []
    planner, writer = _Planner(entries, check), FileSystemWriter(folder, sync_files=True)
    plan = planner.create_local_plan()
    results = writer.write_data(SavePlan(plan.items, prefix_of(rank)), planner).wait()
    stored = []
    for result in results:
        key = result.index.fqn, tuple(result.index.offset or ())
        entry = planner._entries[key]
        where = place_of(result)
        stored.append(
            Stored(entry.name, entry.shape, entry.dtype, entry.box, where, planner.sums[key])
        )
    return stored


def write_index(folder: Path, stored: Sequence[Stored], index: Callable[..., Index]) -> None:
    """Writes torch's metadata of all entries, and the library's file; has both on disk.

    Args:
        folder: in which all members have written.
        stored: the entries of all.
        index: makes the index of its ``dtypes``, ``sums`` and ``metadata_sum``.

    Raises:
        OSError: the system does not take it.
    """
    items = [_item(each.name, each.shape, each.dtype, each.box) for each in stored]
    _, metadata = create_default_global_save_plan([SavePlan(items)])
    writer = FileSystemWriter(folder, sync_files=True)
    places = zip((item.index for item in items), (each.place for each in stored), strict=True)
    writer.finish(metadata, [[*starmap(written_at, places)]])
    sums: dict[str, dict[tuple[int, ...], int]] = {}
    for each in stored:
        sums.setdefault(each.name, {})[each.box[0]] = each.sum
    odd = {each.name: each.dtype for each in stored if "." in each.dtype}
    metadata_sum = zlib.crc32((folder / METADATA).read_bytes())
    body = words.encode(index(dtypes=odd, sums=sums, metadata_sum=metadata_sum))
    head = b"%s%08x\n" % (_FIRST_LINE, zlib.crc32(body))
    write_durably(folder / INDEX, head + body)


def read_index(folder: Path) -> Index:
    """The library's file of a checkpoint.

    Raises:
        OSError: it is not there.
        ValueError: it is not what was written.
    """
    head, _, body = (folder / INDEX).read_bytes().partition(b"\n")
    if not head.startswith(_FIRST_LINE):
        raise ValueError(f"{INDEX} is of another version of the library, or of something else")
    if head != b"%s%08x" % (_FIRST_LINE, zlib.crc32(body)):
        raise ValueError(f"{INDEX} has another sum than when it was written")
    index: Index = words.decode(body)
    return index


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file, and has it on disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
