"""Who of several members writes which box of a checkpoint."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product

from dynatrain import _native
from dynatrain.elastic.checkpoint_files import Corners, Piece

_Owned = tuple[Corners, list[int]]


def writers_of(shard_map: _native.ShardMap) -> dict[str, tuple[tuple[Corners, int], ...]]:
    """Who writes which box, of tensors of which not every rank writes all that it has.

    Of owners of one box the one that writes the least so far. Boxes that overlap are cut.
    """
    loads: Counter[int] = Counter()
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
                loads[rank] += _volume(box) * itemsize
            continue
        chosen = []
        for box, ranks in owners:
            rank = min(ranks, key=lambda each: (loads[each], each))
            loads[rank] += _volume(box) * itemsize
            chosen.append((box, rank))
        found[name] = tuple(chosen)
    return found


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
