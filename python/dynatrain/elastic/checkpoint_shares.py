"""Who of several members writes which box of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from heapq import heapreplace
from itertools import product

from dynatrain import _native
from dynatrain.elastic.checkpoint_files import Corners, Piece

_Owned = tuple[Corners, list[int]]


def writers_of(shard_map: _native.ShardMap) -> dict[str, tuple[tuple[Corners, int], ...]]:
    """Who writes which box, of tensors of which not every rank writes all that it has.

    Of owners of one box the one that writes the least so far. Boxes that overlap are cut.

    Cost: a logarithm of the owners for each box, beside reading who they are.
    """
    loads = _Loads()
    found: dict[str, tuple[tuple[Corners, int], ...]] = {}
    for name in shard_map.names():
        shape, _, itemsize = shard_map.info(name)
        owners = [
            ((tuple(begin), tuple(end)), ranks) for begin, end, ranks in shard_map.owners(name)
        ]
        total, held = math.prod(shape), sum(_volume(box) for box, _ in owners)
        if total == 0:
            found[name] = ((((0,) * len(shape), tuple(shape)), 0),)
            continue
        if held != total:
            owners = _apart(owners)
        elif all(len(ranks) == 1 for _, ranks in owners):
            for box, (rank,) in owners:
                loads.add(rank, _volume(box) * itemsize)
            continue
        chosen = []
        for box, ranks in owners:
            rank = loads.least(ranks)
            loads.add(rank, _volume(box) * itemsize)
            chosen.append((box, rank))
        found[name] = tuple(chosen)
    return found


class _Loads:
    """Bytes that each rank writes, and who of some ranks writes the least.

    Most tensors have the same owners as many others: these are put in order once.
    """

    def __init__(self) -> None:
        self._bytes: dict[int, int] = {}
        #: By owners, their loads as they were when they last were on top, and the ranks.
        self._heaps: dict[tuple[int, ...], list[tuple[int, int]]] = {}

    def add(self, rank: int, num_bytes: int) -> None:
        """A rank writes so much more."""
        self._bytes[rank] = self._bytes.get(rank, 0) + num_bytes

    def least(self, ranks: Sequence[int]) -> int:
        """Who writes the least of them, and of those the lowest rank."""
        owners = tuple(ranks)
        heap = self._heaps.get(owners)
        if heap is None:
            heap = self._heaps[owners] = sorted((self._bytes.get(each, 0), each) for each in ranks)
        while heap[0][0] != (now := self._bytes.get(heap[0][1], 0)):  # loads only grow
            heapreplace(heap, (now, heap[0][1]))
        return heap[0][1]


def _apart(owners: Sequence[_Owned]) -> list[_Owned]:
    """The same elements in boxes that do not overlap."""
    found: list[_Owned] = []
    for box, ranks in owners:
        left = [box]
        for other, _ in tuple(found):
            left = [part for each in left for part in _without(each, other)]
        found += ((part, ranks) for part in left)
    return found


def _without(box: Corners, other: Corners) -> Iterator[Corners]:
    """A box without another one, as boxes: of the 3^R in which that one's sides cut it."""
    cuts = []
    for begin, end, low, high in zip(*box, *other, strict=True):
        inner = [min(max(low, begin), end), min(max(high, begin), end)]
        cuts.append([*zip((begin, *inner), (*inner, end), strict=True)])
    for spans in product(*cuts):
        part = tuple(b for b, _ in spans), tuple(e for _, e in spans)
        inside = all(
            low <= b and e <= high for (b, e), low, high in zip(spans, *other, strict=True)
        )
        if _volume(part) and not inside:
            yield part


def own_boxes(
    pieces: Sequence[Piece], chosen: Sequence[tuple[Corners, int]] | None, rank: int
) -> Iterator[tuple[Piece, Corners]]:
    """What of its pieces a rank writes."""
    if chosen is None or not pieces:
        yield from ((piece, piece.box) for piece in pieces)
        return
    exact = {piece.box: piece for piece in pieces}
    for box, of in chosen:
        if of == rank:
            piece = exact.get(box)
            if piece is None:  # it was cut
                piece = next(each for each in pieces if _contains(each.box, box))
            yield piece, box


def _contains(outer: Corners, inner: Corners) -> bool:
    pairs = zip(*outer, *inner, strict=True)
    return all(low <= begin and end <= high for low, high, begin, end in pairs)


def _volume(box: Corners) -> int:
    return math.prod(e - b for b, e in zip(*box, strict=True))
