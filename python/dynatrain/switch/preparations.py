"""The targets of one rank: the one that stands ready, and how others are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from dynatrain import _native
from dynatrain._errors import LayoutError, of_family
from dynatrain.generation.control import attempt
from dynatrain.generation.engine import AtBoundary, Engine
from dynatrain.generation.generation import Generation
from dynatrain.generation.seats import Seats
from dynatrain.generation.world import Build
from dynatrain.generation.worlds import Worlds
from dynatrain.layout import Layout
from dynatrain.switch.blueprint import Blueprint
from dynatrain.switch.called import Called
from dynatrain.switch.calls import Call, Calls, Met
from dynatrain.switch.clock import Clock
from dynatrain.switch.present import Present
from dynatrain.switch.rehearsal import Trial, leaving_nothing, rehearse
from dynatrain.switch.standing import Standing, prepare


@dataclass(frozen=True)
class Wanted:
    """What a preparation is for.

    Attributes:
        layout: the target.
        source: who sits where now; None before the first world.
        epoch: of the source.
        names: new names of source tensors, by FQN.
        check: raises where this rank cannot go there; asked ahead of a switch, at a boundary.
    """

    layout: Layout
    source: Seats | None
    epoch: int
    names: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Relabelled:
    """Places of a target that were chosen.

    Attributes:
        seats: who sits where.
        saved_bytes: what they leave unmoved that natural order would not.
        source_hash: of the map that they were chosen for.
    """

    seats: Seats
    saved_bytes: int
    source_hash: int = 0

    def key_from(self, source: Seats | None) -> str:
        """Text that tells this choice from others, the same on all ranks."""
        source_key = "" if source is None else source.key
        return f"from {source_key} {self.source_hash:016x} to {self.seats.key}"


class Preparations:
    """What a rank has prepared, at most one target at a time.

    Args:
        engine: of the job.
        worlds: places by who sits where.
        present: what the rank is now.
        build: the user's build.
    """

    def __init__(self, engine: Engine, worlds: Worlds, present: Present, build: Build) -> None:
        self._engine = engine
        self._worlds = worlds
        self._now = present
        self._build = build
        self.standing: Standing | None = None
        #: Those that were found to be better than natural ones, by source and target.
        self._relabellings: dict[tuple[Seats | None, Layout], Relabelled] = {}

    @property
    def places(self) -> tuple[str, ...]:
        """What a call tells of: the worlds that are kept, and the choices of places."""
        known = (each.key_from(source) for (source, _), each in self._relabellings.items())
        return (*self._worlds.kept, *known)

    def is_ready(self, layout: Layout, names: Mapping[str, str]) -> bool:
        """Whether ``layout`` stands prepared for the tensors that there are now."""
        if self.standing is None or self.standing.blueprint.called.layout != layout:
            return False
        if names and names != self.standing.blueprint.called.names:
            return False
        return self.is_still_ready()

    def is_still_ready(self) -> bool:
        """Whether what is prepared, if anything, is so for the tensors that there are now."""
        if self.standing is not None:
            self.standing = self.standing.refreshed(self._engine, self._now.source)
        return self.standing is not None

    def drop(self) -> None:
        """Lets go of what is prepared, its memory and its runs with it."""
        self.standing = None

    def prepare(self, layout: Layout, names: Mapping[str, str], met: Met) -> Standing:
        """Prepares a target in place of what was prepared before. Collective."""
        self.drop()
        clock, wanted = Clock(self._engine.rank), self._now_to(layout, names)
        with clock.phase("world"):
            called = self._called(self._engine, wanted, met)
        relabel = partial(self._relabelled, wanted, met)
        self.standing = prepare(self._engine, self._now.source, called, clock, relabel)
        return self.standing

    def prepare_ahead(
        self, generation: Generation, wanted: Wanted, beside: Callable[[Clock], AtBoundary]
    ) -> Standing:
        """Prepares a target over a generation that is not the present one, while training goes on.

        In any thread. Collective over that generation. What was made goes with the last who holds
        it; the target is not taken for prepared before :meth:`adopt`.
        """
        clock = Clock(generation.members.rank)
        engine = self._engine.over(generation, beside(clock))
        target, places = str(wanted.layout), self._worlds.kept
        own = Call("prepare", target, 0, ready=False, connected=True, places=places)
        with clock.phase("world"):
            _, error = attempt(lambda: engine.at_boundary(wanted.check))
            problem = None if error is None else of_family(error, "the call of prepare")
            met = Calls(generation).meet(own, problem)
            called = self._called(engine, wanted, met)
        return prepare(engine, self._now.state, called, clock)

    def adopt(self, standing: Standing) -> None:
        """Takes what was prepared ahead for the target that stands ready."""
        self.standing = standing

    def taken(self, layout: Layout, names: Mapping[str, str], met: Met, clock: Clock) -> Standing:
        """The target of a switch, prepared now where it was not; used up by it. Collective."""
        if not met.ready:  # on whichever rank: two targets would be held beside the source
            self.drop()
        standing = self.standing
        if standing is None:
            began = clock.now()
            standing = self.prepare(layout, names, met)
            clock.adopt(standing.spans, began)
        self.drop()  # its runs are used up, whether the switch succeeds or not
        return standing

    def rehearse(self, layout: Layout, names: Mapping[str, str], met: Met) -> int:
        """Tries a switch; returns the bytes that it takes where most are needed. Collective."""
        called = self._called(self._engine, self._now_to(layout, names), met)
        trial = Trial(lambda: self._now.kept_states(called.seats), self._engine.options.verify)
        with leaving_nothing():
            return rehearse(self._engine, self._now.state, called, trial)

    def _called(self, engine: Engine, wanted: Wanted, met: Met) -> Called:
        """What is asked for, with this rank's place in it. Collective."""
        if (known := self._known(wanted, met)) is not None:
            return self._called_at(engine, wanted, met, known)
        seats = Seats.first_of(engine.generation.members, wanted.layout)
        return self._called_at(engine, wanted, met, Relabelled(seats, 0))

    def _known(self, wanted: Wanted, met: Met) -> Relabelled | None:
        """The places that all ranks have told in this call to have chosen before."""
        known = self._relabellings.get((wanted.source, wanted.layout))
        if known is None or not met.has_places(known.key_from(wanted.source)):
            return None
        return known

    def _called_at(
        self, engine: Engine, wanted: Wanted, met: Met, places: Relabelled, name: str = "world"
    ) -> Called:
        """The same with members at places that were chosen. Collective."""
        members, seats = engine.generation.members, places.seats
        source, standing = wanted.source or seats, self.standing
        in_use = [source]
        if standing is not None:
            in_use.append(standing.blueprint.called.seats)
        world = self._worlds.over(engine).at(
            seats,
            wanted.epoch + 1,
            f"{name}/{met.name}",
            kept=met.has_places(seats.key) and seats.key in self._worlds.kept,
            in_use=in_use,
        )
        live = source.without({members.each[rank].id for rank in met.holders})
        names = dict(wanted.names)
        return Called(live, seats, world, self._build, names, places.saved_bytes)

    def _relabelled(self, wanted: Wanted, met: Met, blueprint: Blueprint) -> Called | None:
        """Places of the target that leave more unmoved than these; None where none do. Collective.

        Once for each pair of worlds and map of the source: what it finds is kept. A rank that has
        left before it could keep it is heard of in the next call, and all choose anew.
        """
        engine, pair = self._engine, (wanted.source, wanted.layout)
        known, source_hash = self._known(wanted, met), blueprint.source_map.hash()
        if not engine.options.relabel:
            return None
        if known is not None and known.source_hash == source_hash:
            return None
        found: list[Relabelled] = []

        def choose() -> str:
            found.append(_best_places(engine, blueprint))
            return found[0].seats.key

        keys = engine.joined("relabelling", choose, lambda keys: sorted(set(keys)))
        if len(keys) > 1:
            raise LayoutError(
                f"plan: the ranks give the places of {wanted.layout} in {len(keys)} orders\n"
                "  expected one\n  nothing was moved; the source state is intact\n"
                "  every rank must run the same build and the same version of dynatrain"
            )
        places = found[0]
        if places.seats == blueprint.called.seats:
            self._relabellings[pair] = places
            return None
        called = self._called_at(engine, wanted, met, places, "relabelled")
        self._relabellings[pair] = places
        return called

    def _now_to(self, layout: Layout, names: Mapping[str, str]) -> Wanted:
        return Wanted(layout, self._now.seats, self._now.epoch, names)


def _best_places(engine: Engine, blueprint: Blueprint) -> Relabelled:
    """The places of a target that leave least to be moved; those that there are where it is little.

    Equal on all ranks: it follows from the maps.
    """
    called, members = blueprint.called, engine.generation.members
    ranks, nodes = members.ranks_of(called.seats.ids), members.node_of_rank
    found = _native.relabel(blueprint.source_map, blueprint.target_map, nodes, ranks)
    saved_bytes = found.natural_moved_bytes - found.moved_bytes + called.relabel_saved_bytes
    ids = tuple(members.each[rank].id for rank in found.ranks)
    return Relabelled(Seats(called.layout, ids), saved_bytes, blueprint.source_map.hash())
