"""Fingerprints of a state: what each rank adds, and what all of them tell together.

What is tied counts under each of its names, in every layout: stages of a pipeline hold copies, and
nothing there says that they are tied elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dynatrain import _native
from dynatrain.generation.engine import Engine, Side
from dynatrain.generation.seats import Seats
from dynatrain.switch.encoded import shared_in
from dynatrain.train_state import TrainState

#: What one rank adds to a fingerprint: a sum over its elements, and hashes of its values.
Share = tuple[int, frozenset[int]]


def together(shares: Iterable[Share]) -> Share:
    """What all ranks add to a fingerprint together; it tells a state, the same in every layout.

    It covers what travels: every element, and every value that ranks share.
    """
    total, values = 0, set[int]()
    for elements, hashes in shares:
        total += elements
        values |= hashes
    return total % 2**64, frozenset(values)


def together_if_asked(shares: Iterable[Share | None]) -> Share | None:
    """The same of ranks that may not have been asked for theirs: None where nobody was."""
    asked = [share for share in shares if share is not None]
    return together(asked) if asked else None


def fingerprint_text(share: Share) -> str:
    """The fingerprint of a state, from what all ranks add to it together."""
    elements, hashes = share
    return f"{(elements + sum(hashes)) % 2**64:016x}"


@dataclass(frozen=True)
class Counted:
    """How a state is counted: under which names, and which rank has what of them.

    Attributes:
        shard_map: of all ranks, with every name.
        apart: further FQNs of tied parameters that are names in it, too.
    """

    shard_map: _native.ShardMap
    apart: frozenset[str]

    def share(self, engine: Engine, side: Side, shared: Mapping[str, Any] | None = None) -> Share:
        """What this rank adds to the fingerprint.

        Args:
            engine: of the job.
            side: its tensors, under some of the names that count or all of them.
            shared: the shared values of ``side``, where they were read already.
        """
        counted = side.under(self.apart)
        if counted.held is not None:
            each = shared_in(engine.adapter, counted.held.parts)
            hashes = frozenset[int]().union(*map(engine.adapter.value_hashes, each))
            return engine.sum_of_elements(self.shard_map, counted.table), hashes
        if shared is None or counted is not side:
            held = counted.inventory
            shared = {} if held is None else engine.adapter.shared_values(held)
        elements = engine.sum_of_elements(self.shard_map, counted.table)
        return elements, engine.adapter.value_hashes(shared)


def _tied_anywhere(ties: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*ties)


def whole_share(engine: Engine, state: TrainState | None, seats: Seats) -> Share:
    """What all ranks together add to the fingerprint of the present state. Collective.

    Five exchanges; what ranks say of their tensors is published beside the third.

    Args:
        engine: of the job.
        state: of this rank, None where it idles.
        seats: who sits where in the layout of the state.

    Returns:
        The same on every rank, one that idles too.
    """

    def ties() -> frozenset[str]:
        return frozenset() if state is None else engine.adapter.ties(state)

    apart = engine.joined("reading the state", ties, _tied_anywhere)
    side = engine.together("reading the state", lambda: engine.read(state, None, apart))
    shard_map = engine.publish_map(side, seats)

    counted = Counted(shard_map, apart)
    return engine.joined("the fingerprint", lambda: counted.share(engine, side), together)
