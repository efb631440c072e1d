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
    prefix = SHARED
    while found := [name for name in parts if name.startswith(prefix)]:
        yield {
            name.removeprefix(prefix): adapter.decode(parts[name])
            for name in found
            if not name.startswith(f"{prefix}keep.")
        }
        prefix = ANOTHER + prefix


def with_another(own: Mapping[str, bytes], other: Mapping[str, bytes]) -> dict[str, bytes]:
    """The parts of a rank, and what another one shared and ``own`` has not, or not the same."""
    found = dict(own)
    for name, blob in other.items():
        plain = without_another(name)
        if plain.startswith(SHARED) and own.get(plain) != blob:
            add_another(found, ANOTHER + plain, blob)
        elif name != plain:  # that a place had something else
            found[name] = blob
    return found


def add_another(parts: dict[str, bytes], name: str, blob: bytes) -> None:
    """Adds a content of a name to those that ``parts`` has of it."""
    while parts.setdefault(name, blob) != blob:
        name = ANOTHER + name


def without_another(name: str) -> str:
    """The name under which a rank would have told it itself."""
    while name.startswith(ANOTHER):
        name = name.removeprefix(ANOTHER)
    return name
