"""The targets of one rank: the one that stands ready, and how others are made."""

from __future__ import annotations

from collections.abc import Mapping

from dynatrain.generation.engine import Engine
from dynatrain.generation.seats import Seats
from dynatrain.generation.world import Build
from dynatrain.generation.worlds import Worlds
from dynatrain.layout import Layout
from dynatrain.switch.called import Called
from dynatrain.switch.calls import Met
from dynatrain.switch.clock import Clock
from dynatrain.switch.present import Present
from dynatrain.switch.rehearsal import Trial, leaving_nothing, rehearse
from dynatrain.switch.standing import Standing, prepare


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
            self.standing = self.standing.refreshed(self._engine, self._now.state)
        return self.standing is not None

    def drop(self) -> None:
        """Lets go of what is prepared, its memory and its runs with it."""
        self.standing = None

    def prepare(self, layout: Layout, names: Mapping[str, str], met: Met) -> Standing:
        """Prepares a target in place of what was prepared before. Collective."""
        self.drop()
        clock = Clock(self._engine.rank)
        with clock.phase("world"):
            called = self._called(layout, names, met)
        self.standing = prepare(self._engine, self._now.state, called, clock)
        return self.standing

    def taken(self, layout: Layout, names: Mapping[str, str], met: Met, clock: Clock) -> Standing:
        """The target of a switch, prepared now where it was not; used up by it. Collective."""
        standing = self.standing
        if not met.ready or standing is None:
            began = clock.now()
            standing = self.prepare(layout, names, met)
            clock.adopt(standing.spans, began)
        self.drop()  # its runs are used up, whether the switch succeeds or not
        return standing

    def rehearse(self, layout: Layout, names: Mapping[str, str], met: Met) -> int:
        """Tries a switch; returns the bytes that it takes where most are needed. Collective."""
        called = self._called(layout, names, met)
        trial = Trial(lambda: self._now.kept_states(called.seats), self._engine.options.verify)
        with leaving_nothing():
            return rehearse(self._engine, self._now.state, called, trial)

    def _called(self, layout: Layout, names: Mapping[str, str], met: Met) -> Called:
        """What is asked for, with this rank's place in it. Collective."""
        seats = Seats.first_of(self._engine.generation.members, layout)
        kept, name = met.has_places(seats.key), f"world/{met.name}"
        standing = self.standing
        in_use = [] if standing is None else [standing.blueprint.called.seats]
        if self._now.seats is not None:
            in_use.append(self._now.seats)
        world = self._worlds.at(seats, self._now.epoch + 1, name, kept=kept, in_use=in_use)
        return Called(self._now.seats or seats, seats, world, self._build, dict(names))
