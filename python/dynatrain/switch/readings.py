"""Source and target as all ranks see them: each reads its own state, and all join what they read.

One exchange for each side: what a rank says of its state is listed there with all else that the
others must know, and what is distinct of it is broadcast.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dynatrain import _native, words
from dynatrain._errors import Error, of_family
from dynatrain.adapters.port import SlotNote, Slots
from dynatrain.generation.control import Listing, listing
from dynatrain.generation.engine import Engine, Side
from dynatrain.generation.lanes import DEVICE
from dynatrain.switch.called import Called, build_on_meta
from dynatrain.train_state import TrainState

_T = TypeVar("_T")


@dataclass(frozen=True)
class Naming:
    """Which further FQNs of tied parameters are names of their own.

    Attributes:
        apart: what one side alone ties: the bytes move under every name.
        tied: what either side ties: a fingerprint counts every name.
    """

    apart: frozenset[str]
    tied: frozenset[str]

    @staticmethod
    def of(source: Collection[str], target: Collection[str]) -> Naming:
        """The naming where these are tied in source and target."""
        return Naming(frozenset(source) ^ frozenset(target), frozenset(source) | frozenset(target))

    def each(self, *, counted: bool) -> list[frozenset[str]]:
        """The namings that sides are read under: for the switch, then for a fingerprint."""
        return [self.apart, self.tied] if counted and self.tied != self.apart else [self.apart]


@words.record
@dataclass(frozen=True)
class _Told:
    """What a rank tells of its source, beside what it has built for the target.

    Attributes:
        source_ties: further FQNs that its source ties.
        target_ties: further FQNs that its target ties.
        listed: what it says of its source, under the naming that these two alone suggest.
        notes: what its inventory noted of slots.
        on_host: names of tensors that lie on the host; none where all do.
    """

    source_ties: frozenset[str]
    target_ties: frozenset[str]
    listed: Listing
    notes: frozenset[SlotNote]
    on_host: frozenset[str]


@dataclass(frozen=True)
class Sources:
    """The source of all ranks, and this rank's target on meta, without slots.

    Attributes:
        built: None on a rank that idles in the target.
        naming: agreed by all ranks.
        sides: this rank's tensors, under each naming.
        parts: what it says of them.
        listings: of what all ranks say of theirs.
        notes: of all ranks.
        on_host: names of tensors that lie on the host of any rank; none where all do.
    """

    built: TrainState | None
    naming: Naming
    sides: Sequence[Side]
    parts: Mapping[str, bytes]
    listings: Sequence[Listing]
    notes: frozenset[SlotNote]
    on_host: frozenset[str]


def read_sources(
    engine: Engine, state: TrainState | None, called: Called, built: TrainState | None
) -> Sources:
    """Builds the target on meta and reads the source. Collective.

    One exchange; a second one where ties of other ranks call for other names than this rank's own.
    """
    made: list[TrainState | None] = []
    read: list[Side] = []
    parts: dict[str, bytes] = {}
    counted, beside = "fingerprint" in engine.options.verify, DEVICE in engine.lanes

    def read_under(naming: Naming) -> Listing:
        each = naming.each(counted=counted)
        read[:] = [engine.read(state, called.names, apart) for apart in each]
        parts.update(engine.encoded(read))
        return listing(parts)

    def tell() -> _Told:
        made.append(built or in_phase("build", lambda: build_on_meta(engine, called)))
        ties = engine.adapter.ties
        source = frozenset() if state is None else ties(state, called.names)
        target = frozenset() if made[0] is None else ties(made[0])
        listed = in_phase("reading the state", lambda: read_under(Naming.of(source, target)))
        inventory = read[0].inventory
        return _Told(
            source,
            target,
            listed,
            frozenset() if inventory is None else inventory.slot_notes(),
            frozenset(inventory.host_names()) if inventory is not None and beside else frozenset(),
        )

    told = engine.gathered("build", tell)
    naming = Naming.of(
        frozenset().union(*(each.source_ties for each in told)),
        frozenset().union(*(each.target_ties for each in told)),
    )
    listings = [each.listed for each in told]
    if any(Naming.of(each.source_ties, each.target_ties) != naming for each in told):
        parts.clear()
        listings = engine.gathered("reading the state", lambda: read_under(naming))
    return Sources(
        made[0],
        naming,
        read,
        parts,
        listings,
        frozenset().union(*(each.notes for each in told)),
        frozenset().union(*(each.on_host for each in told)),
    )


@dataclass(frozen=True)
class Targets:
    """The target with its slots, and both sides as maps of all ranks, under each naming."""

    sides: Sequence[Side]
    parts: Mapping[str, bytes]
    listings: Sequence[Listing]
    source_maps: Sequence[_native.ShardMap]


def read_targets(engine: Engine, sources: Sources) -> Targets:
    """Joins the source of all ranks and gives the target the slots that it has. Collective.

    One exchange, and a broadcast for each distinct thing that ranks say of their source.
    """
    phase = "reading the state"
    published = engine.control.publish(sources.parts, sources.listings, phase)
    maps: list[_native.ShardMap] = []
    sides: list[Side] = []
    parts: dict[str, bytes] = {}

    def tell() -> Listing:
        maps[:] = in_phase(phase, lambda: engine.merged(published, sources.sides))
        sides[:] = _with_slots(engine, sources, Slots(maps[0], sources.notes))
        parts.update(engine.encoded(sides))
        return listing(parts)

    listings = engine.gathered("build", tell)
    return Targets(sides, parts, listings, maps)


def _with_slots(engine: Engine, sources: Sources, slots: Slots) -> list[Side]:
    """The target with its slots, read under each naming."""
    built, inventory = sources.built, sources.sides[0].inventory
    if inventory is not None:
        engine.adapter.check_alike(inventory, slots)
        if built is not None:
            engine.adapter.check_apart(built, inventory.state)
    if built is not None:
        engine.adapter.make_slots(built, slots)
    counted = len(sources.sides) > 1
    return [engine.read(built, None, each) for each in sources.naming.each(counted=counted)]


def in_phase(phase: str, work: Callable[[], _T]) -> _T:
    """What ``work`` returns; what it raises is of the library's family, and names the phase."""
    try:
        return work()
    except Error:
        raise
    except Exception as error:
        raise of_family(error, phase) from error
