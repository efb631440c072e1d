"""Values of a state as bytes, each under the name by which it is published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dynatrain.adapters.port import Adapter, Values

SHARED, PER_RANK = "shared/", "per_rank/"
#: Before the name of what a rank has of another one, whose state it keeps.
ANOTHER = "another/"


def encoded(adapter: Adapter[Any], values: Values, kept: Mapping[str, object]) -> dict[str, bytes]:
    """The values of one rank, and what kept objects have handed over as shared ones."""
    shared = {**values.shared, **kept}
    return {
        **{f"{SHARED}{name}": adapter.encode(name, item) for name, item in shared.items()},
        **{f"{PER_RANK}{name}": adapter.encode(name, i) for name, i in values.per_rank.items()},
    }


def shared_in(adapter: Adapter[Any], parts: Mapping[str, bytes]) -> Iterator[dict[str, Any]]:
    """The shared values of a state in ``parts``, those of each rank that they are of."""
    for prefix in (SHARED, ANOTHER + SHARED):
        yield {
            name.removeprefix(prefix): adapter.decode(blob)
            for name, blob in parts.items()
            if name.startswith(prefix) and not name.startswith(f"{prefix}keep.")
        }


def with_another(own: Mapping[str, bytes], other: Mapping[str, bytes]) -> dict[str, bytes]:
    """The parts of a rank, and what another one shared and ``own`` has not, or not the same."""
    shared = {name: blob for name, blob in other.items() if name.startswith(SHARED)}
    return {
        **own,
        **{ANOTHER + name: blob for name, blob in shared.items() if own.get(name) != blob},
    }
