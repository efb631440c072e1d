"""Source and target as all ranks see them: each reads its own state, and all join what they read.

One exchange for each side: what a rank says of its state is listed there with all else that the
others must know, and what is distinct of it is sent to all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dynatrain import _native, words
from dynatrain._errors import Error, LayoutError, of_family
from dynatrain.adapters.port import SlotNote, Slots
from dynatrain.generation.control import Holders, Listing, holders, listing
from dynatrain.generation.engine import Engine, Side
from dynatrain.generation.held import Held, Source
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


@words.record
@dataclass(frozen=True)
class _AllTold:
    """What all ranks tell together.

    Attributes:
        source_ties: further FQNs that the source of any rank ties.
        target_ties: further FQNs that the target of any rank ties.
        held_by: which ranks say the same of their source; None where some have read theirs under
            another naming than that of all.
        notes: what the inventory of any rank noted of slots.
        on_host: names of tensors that lie on the host of any rank; none where all do.
    """

    source_ties: frozenset[str]
    target_ties: frozenset[str]
    held_by: Holders | None
    notes: frozenset[SlotNote]
    on_host: frozenset[str]


def _all_told(told: Sequence[_Told]) -> _AllTold:
    source = frozenset[str]().union(*(each.source_ties for each in told))
    target = frozenset[str]().union(*(each.target_ties for each in told))
    naming = Naming.of(source, target)
    alike = all(Naming.of(each.source_ties, each.target_ties) == naming for each in told)
    return _AllTold(
        source,
        target,
        holders([each.listed for each in told]) if alike else None,
        frozenset().union(*(each.notes for each in told)),
        frozenset().union(*(each.on_host for each in told)),
    )


@dataclass(frozen=True)
class Sources:
    """The source of all ranks, and this rank's target on meta, without slots.

    Attributes:
        built: None on a rank that idles in the target.
        naming: agreed by all ranks.
        sides: this rank's tensors, under each naming.
        parts: what it says of them.
        held_by: which ranks say the same of theirs.
        notes: of all ranks.
        on_host: names of tensors that lie on the host of any rank; none where all do.
    """

    built: TrainState | None
    naming: Naming
    sides: Sequence[Side]
    parts: Mapping[str, bytes]
    held_by: Holders
    notes: frozenset[SlotNote]
    on_host: frozenset[str]


def read_sources(
    engine: Engine, state: Source, called: Called, built: TrainState | None
) -> Sources:
    """Builds the target on meta and reads the source. Collective.

    One exchange; a second one where ties of other ranks call for other names than this rank's own.
    """
    made: list[TrainState | None] = []
    read: list[Side] = []
    parts: dict[str, bytes] = {}
    counted, beside = "fingerprint" in engine.options.verify, DEVICE in engine.lanes

    def read_under(naming: Naming) -> None:
        each = naming.each(counted=counted)
        side = engine.read(state, called.names, each[0])
        read[:] = [side, *(side.under(apart) for apart in each[1:])]

    def listed() -> Listing:
        parts.clear()
        parts.update(engine.encoded(read, called.source))
        return listing(parts)

    def look() -> tuple[frozenset[str], frozenset[str], frozenset[SlotNote]]:
        made[:] = [built or in_phase("build", lambda: build_on_meta(engine, called))]
        source, target = _ties(engine, state, called.names), _ties(engine, made[0])
        in_phase("reading the state", lambda: read_under(Naming.of(source, target)))
        return source, target, read[0].slot_notes()

    def tell() -> _Told:
        source, target, notes = engine.at_boundary(look)
        told = in_phase("reading the state", listed)
        on_host = read[0].host_names() if beside else frozenset[str]()
        return _Told(source, target, told, notes, on_host)

    def read_again() -> Listing:
        engine.at_boundary(lambda: read_under(naming))
        return listed()

    told = engine.joined("build", tell, _all_told)
    naming, held_by = Naming.of(told.source_ties, told.target_ties), told.held_by
    if held_by is None:
        held_by = engine.joined("reading the state", read_again, holders)
    return Sources(made[0], naming, read, parts, held_by, told.notes, told.on_host)


def _ties(engine: Engine, state: Source, names: Mapping[str, str] | None = None) -> frozenset[str]:
    if isinstance(state, Held):
        return state.ties
    return frozenset() if state is None else engine.adapter.ties(state, names)


@dataclass(frozen=True)
class Targets:
    """The target with its slots, and the source as a map of all ranks, under each naming.

    Attributes:
        sides: this rank's tensors in the target, on meta.
        parts: what it says of them.
        held_by: which ranks say the same of theirs.
        source_maps: the source of all ranks, proved by this one.
    """

    sides: Sequence[Side]
    parts: Mapping[str, bytes]
    held_by: Holders
    source_maps: Sequence[_native.ShardMap]


def read_targets(engine: Engine, sources: Sources, called: Called) -> Targets:
    """Joins the source of all ranks and gives the target the slots that it has. Collective.

    One exchange, and behind it each distinct thing that ranks say of their source.
    """
    phase = "reading the state"
    published = engine.control.publish(sources.parts, sources.held_by, phase)
    maps: list[_native.ShardMap] = []
    sides: list[Side] = []
    parts: dict[str, bytes] = {}

    def tell() -> Listing:
        maps[:] = in_phase(phase, lambda: engine.merged(published, sources.sides))
        slots = Slots(maps[0], sources.notes)
        sides[:] = engine.at_boundary(lambda: _with_slots(engine, sources, slots, called))
        parts.update(engine.encoded(sides, called.seats))
        return listing(parts)

    held_by = engine.joined("build", tell, holders)
    return Targets(sides, parts, held_by, maps)


def _with_slots(engine: Engine, sources: Sources, slots: Slots, called: Called) -> list[Side]:
    """The target with its slots, read under each naming."""
    built, inventory = sources.built, sources.sides[0].inventory
    if inventory is not None:
        engine.adapter.check_alike(inventory, slots)
        if built is not None:
            engine.adapter.check_apart(built, inventory.state)
    first, *others = sources.naming.each(counted=len(sources.sides) > 1)
    with called.entered():
        if built is not None:
            if not all(called.source.ids):
                _check_held(engine.read(built, None, first), slots.source)
            engine.adapter.make_slots(built, slots)
        side = engine.read(built, None, first)
    return [side, *(side.under(each) for each in others)]


def _check_held(target: Side, source: _native.ShardMap) -> None:
    """Refuses a source of which ranks are lost where whole tensors of it went with them.

    Its map has no such tensor, so that none of its own would be found to lack a part.
    """
    lost = sorted(set(target.table.names()) - set(source.names()))
    if lost:
        more = f", nor of {len(lost) - 1} more tensors" if len(lost) > 1 else ""
        raise LayoutError(
            f"layout: no rank holds anything of {lost[0]!r}{more}\n"
            f"  {len(lost)} tensors of the target have no owner\n"
            "  expected every element to be held by a rank that is there, or by a copy\n"
            "  nothing was moved; what each rank holds is as it was\n"
            "  keep copies (snapshot_every), checkpoints, or replicas (dp_replicate)"
        )


def in_phase(phase: str, work: Callable[[], _T]) -> _T:
    """What ``work`` returns; what it raises is of the library's family, and names the phase."""
    try:
        return work()
    except Error:
        raise
    except Exception as error:
        raise of_family(error, phase) from error
