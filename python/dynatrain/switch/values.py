"""What is no tensor, from the ranks of the source to all: read, published, read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

from dynatrain.adapters.port import Part, Published, Values
from dynatrain.generation.control import Holders, Listing, holders, listing
from dynatrain.generation.engine import Engine, Side
from dynatrain.generation.seats import Seats
from dynatrain.layout import Layout
from dynatrain.switch.encoded import ANOTHER, PER_RANK, SHARED, encoded, without_another
from dynatrain.switch.fingerprints import Share, together_if_asked

#: What one rank reads of all others: see :func:`_all_read`.
_AllRead = tuple[Holders, list[str], list[str], Share | None]


@dataclass(frozen=True)
class Content:
    """One distinct content of a name.

    Attributes:
        blob: its bytes; None where they are of no use.
        ranks: that hold it; none where it stands for what all other ranks keep for themselves.
    """

    blob: bytes | None
    ranks: Sequence[int]


@dataclass(frozen=True)
class Handed:
    """What the ranks of a source handed over, as one rank has it.

    Attributes:
        contents: the distinct ones of every name, by the lowest rank that holds each.
        share: of all ranks in the source's fingerprint; None when nobody asked for it.
        told_apart: names of what belongs to a rank, of which ranks that differ in tp alone held
            different contents.
    """

    contents: Mapping[str, Sequence[Content]]
    share: Share | None
    told_apart: Collection[str]


def publish_values(
    engine: Engine,
    source: Side,
    seats: Seats,
    kept: Callable[[], Mapping[str, object]],
    share: Callable[[Values], Share] | None = None,
) -> Handed:
    """Publishes the values of the source and, as shared ones, what ``kept()`` returns. Collective.

    A distinct content of a name travels once, and not at all when every rank of the job holds it.
    What belongs to each rank stays there, unless all ranks of the source hold the same.

    Args:
        engine: of the job.
        source: the state of this rank.
        seats: who sits where in the source.
        kept: asked for the state of kept objects, by name.
        share: this rank's share of a fingerprint, given the values that were read.
    """
    parts: dict[str, bytes] = {}

    def read() -> tuple[Listing, Share | None]:
        values = Values()
        if source.held is not None:
            parts.update(source.held.parts)
        elif source.inventory is not None:
            values = engine.adapter.values(source.inventory)
            parts.update(encoded(engine.adapter, values, kept()))
        return listing(parts), None if share is None else share(values)

    def all_read(answers: Sequence[tuple[Listing, Share | None]]) -> _AllRead:
        return _all_read(answers, [seats.place_of(m.id) for m in members], seats.layout)

    members = engine.generation.members.each
    held_by, own_kind, apart, shares = engine.joined("reading the state", read, all_read)
    return Handed(_exchanged(engine, parts, held_by, own_kind), shares, apart)


def _all_read(
    answers: Sequence[tuple[Listing, Share | None]], places: Sequence[int | None], layout: Layout
) -> _AllRead:
    """Which ranks hold each content, names of which each rank keeps its own, and the share of all.

    What stays on its rank is named, and nothing else is told of it: it differs on every rank. Third
    come those of its names of which ranks that differ in tp alone hold different contents.
    """
    held_by = holders([listed for listed, _ in answers])
    times = Counter(name for name, _, _ in held_by if name.startswith(PER_RANK))
    at_home = {name for name, count in times.items() if count > 1}
    travel = {key: ranks for key, ranks in held_by.items() if key[0] not in at_home}
    apart = [] if layout.tp == 1 else _told_apart(held_by, at_home, places, layout)
    return travel, sorted(at_home), apart, together_if_asked(share for _, share in answers)


def _told_apart(
    held_by: Holders, names: Collection[str], places: Sequence[int | None], layout: Layout
) -> list[str]:
    firsts = [None if place is None else layout.group(place, "tp")[0] for place in places]
    found: dict[tuple[str, int], bytes] = {}
    apart = set()
    for (name, digest, _), ranks in held_by.items():
        for rank in ranks if name in names else ():
            first = firsts[rank]
            if first is not None and found.setdefault((name, first), digest) != digest:
                apart.add(name)
    return sorted(apart)


def _exchanged(
    engine: Engine, parts: Mapping[str, bytes], held_by: Holders, at_home: Sequence[str]
) -> dict[str, list[Content]]:
    published = engine.control.publish(parts, held_by, "publishing the values")
    sent = {name: [Content(p.blob, p.ranks) for p in items] for name, items in published.items()}
    others = Content(None, ())
    own = {name: Content(parts[name], (engine.rank,)) for name in at_home if name in parts}
    return {**_with_others(sent), **{name: [own.get(name, others), others] for name in at_home}}


def _with_others(sent: Mapping[str, list[Content]]) -> dict[str, list[Content]]:
    """What ranks have of others, beside what these would have told themselves.

    Of what belongs to a rank they tell that others had something else, not what: it is nobody's.
    """
    found = {name: [*items] for name, items in sent.items() if not name.startswith(ANOTHER)}
    for name, items in sent.items():
        if name.startswith(ANOTHER):
            plain = without_another(name)
            known = found.setdefault(plain, [])
            if plain.startswith(PER_RANK):
                known += [Content(None, ())] * max(1, 2 - len(known))
                continue
            blobs = {each.blob for each in known}
            known += [each for each in items if each.blob not in blobs]
    return found


def read_values(engine: Engine, handed: Handed) -> Published:
    """What was published, decoded."""
    return Published(
        _decoded(engine, handed.contents, SHARED),
        _decoded(engine, handed.contents, PER_RANK),
        frozenset(name.removeprefix(PER_RANK) for name in handed.told_apart),
    )


def check_values(engine: Engine, target: Side, handed: Handed) -> None:
    """Reads what was published and holds it against the target. Collective."""
    read: list[Published] = []

    def check() -> int:
        read.append(read_values(engine, handed))
        return engine.adapter.check_values(target.inventory, read[0], engine.rank)

    taken = engine.joined("comparing the values", check, taken_by_any)
    engine.adapter.check_left(read[0], taken)  # the same outcome on every rank


def taken_by_any(answers: Iterable[int]) -> int:
    """The values that some rank takes, of what each says that it takes."""
    return reduce(or_, answers)


def _decoded(
    engine: Engine, contents: Mapping[str, Sequence[Content]], prefix: str
) -> dict[str, list[Part]]:
    def part(item: Content) -> Part:
        value: Any = None if item.blob is None else engine.adapter.decode(item.blob)
        return Part(value, tuple(item.ranks))

    return {
        name.removeprefix(prefix): [part(item) for item in items]
        for name, items in contents.items()
        if name.startswith(prefix)
    }
