"""What is no tensor, from the ranks of the source to all: read, published, read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dynatrain.adapters.port import Part, Published
from dynatrain.control import Listing, Publication, listing
from dynatrain.engine import Engine, Side

_SHARED, _PER_RANK = "shared/", "per_rank/"


def publish_values(
    engine: Engine, source: Side, kept: Callable[[], Mapping[str, object]]
) -> dict[str, list[Publication]]:
    """Publishes the values of the source and, as shared ones, what ``kept()`` returns. Collective.

    What ranks share goes apart from what belongs to each: a distinct content of a name travels
    once, and not at all when every rank of the job holds it.
    """
    parts: dict[str, bytes] = {}

    def read() -> Listing:
        parts.update(_encoded(engine, source, kept))
        return listing(parts)

    listings = engine.gathered("reading the state", read)
    return engine.control.publish_parts(parts, listings)


def check_values(
    engine: Engine, target: Side, publications: Mapping[str, Sequence[Publication]]
) -> Published:
    """Reads what was published and holds it against the target; nothing has moved. Collective."""
    read: list[Published] = []

    def check() -> int:
        published = Published(
            _decoded(engine, publications, _SHARED), _decoded(engine, publications, _PER_RANK)
        )
        read.append(published)
        return engine.adapter.check_values(target.inventory, published, engine.rank)

    taken = engine.gathered("comparing the values", check)
    engine.adapter.check_left(read[0], taken)  # the same outcome on every rank
    return read[0]


def _encoded(
    engine: Engine, source: Side, kept: Callable[[], Mapping[str, object]]
) -> dict[str, bytes]:
    if source.inventory is None:
        return {}
    adapter = engine.adapter
    values = adapter.values(source.inventory)
    shared = {**values.shared, **kept()}
    return {
        **{f"{_SHARED}{name}": adapter.encode(name, item) for name, item in shared.items()},
        **{
            f"{_PER_RANK}{name}": adapter.encode(name, item)
            for name, item in values.per_rank.items()
        },
    }


def _decoded(
    engine: Engine, publications: Mapping[str, Sequence[Publication]], prefix: str
) -> dict[str, list[Part]]:
    def part(item: Publication) -> Part:
        value: Any = engine.adapter.decode(item.blob)
        return Part(value, tuple(item.ranks))

    return {
        name.removeprefix(prefix): [part(item) for item in items]
        for name, items in publications.items()
        if name.startswith(prefix)
    }
