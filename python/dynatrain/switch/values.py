"""What is no tensor, from the ranks of the source to all: read, published, read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynatrain.adapters.port import Part, Published, Values
from dynatrain.generation.control import Listing, holders, listing
from dynatrain.generation.engine import Engine, Side
from dynatrain.switch.fingerprints import Share, joined

_SHARED, _PER_RANK = "shared/", "per_rank/"


@dataclass(frozen=True)
class Content:
    """One distinct content of a name: its bytes, None where they are of no use, and its ranks."""

    blob: bytes | None
    ranks: Sequence[int]


@dataclass(frozen=True)
class Handed:
    """What the ranks of a source handed over, as one rank has it.

    Attributes:
        contents: the distinct ones of every name, by the lowest rank that holds each.
        share: of all ranks in the source's fingerprint; None when nobody asked for it.
    """

    contents: Mapping[str, Sequence[Content]]
    share: Share | None


def publish_values(
    engine: Engine,
    source: Side,
    kept: Callable[[], Mapping[str, object]],
    share: Callable[[Values], Share] | None = None,
) -> Handed:
    """Publishes the values of the source and, as shared ones, what ``kept()`` returns. Collective.

    A distinct content of a name travels once, and not at all when every rank of the job holds it.
    What belongs to each rank stays there, unless all ranks of the source hold the same.

    Args:
        engine: of the job.
        source: the state of this rank.
        kept: asked for the state of kept objects, by name.
        share: this rank's share of a fingerprint, given the values that were read.
    """
    parts: dict[str, bytes] = {}

    def read() -> tuple[Listing, Share | None]:
        values = Values()
        if source.inventory is not None:
            values = engine.adapter.values(source.inventory)
            parts.update(_encoded(engine, values, kept()))
        return listing(parts), None if share is None else share(values)

    answers = engine.gathered("reading the state", read)
    contents = _exchanged(engine, parts, [listed for listed, _ in answers])
    shares = [mine for _, mine in answers if mine is not None]
    return Handed(contents, None if share is None else joined(shares))


def _exchanged(
    engine: Engine, parts: Mapping[str, bytes], listings: Sequence[Listing]
) -> dict[str, list[Content]]:
    found: dict[str, list[Content]] = {}
    for (name, _, _), ranks in holders(listings).items():
        blob = parts[name] if engine.rank in ranks else None
        found.setdefault(name, []).append(Content(blob, ranks))
    at_home = {
        name for name, items in found.items() if name.startswith(_PER_RANK) and len(items) > 1
    }
    travel = [{n: key for n, key in listed.items() if n not in at_home} for listed in listings]
    published = engine.control.publish(parts, travel, "publishing the values")
    sent = {name: [Content(p.blob, p.ranks) for p in items] for name, items in published.items()}
    return {**sent, **{name: found[name] for name in at_home}}


def check_values(engine: Engine, target: Side, handed: Handed) -> Published:
    """Reads what was published and holds it against the target; nothing has moved. Collective."""
    read: list[Published] = []

    def check() -> int:
        read.append(
            Published(
                _decoded(engine, handed.contents, _SHARED),
                _decoded(engine, handed.contents, _PER_RANK),
            )
        )
        return engine.adapter.check_values(target.inventory, read[0], engine.rank)

    taken = engine.gathered("comparing the values", check)
    engine.adapter.check_left(read[0], taken)  # the same outcome on every rank
    return read[0]


def _encoded(engine: Engine, values: Values, kept: Mapping[str, object]) -> dict[str, bytes]:
    encode = engine.adapter.encode
    shared = {**values.shared, **kept}
    return {
        **{f"{_SHARED}{name}": encode(name, item) for name, item in shared.items()},
        **{f"{_PER_RANK}{name}": encode(name, item) for name, item in values.per_rank.items()},
    }


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
