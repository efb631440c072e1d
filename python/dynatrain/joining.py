"""A session whose members come and go: what the elastic driver asks of it, done with its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dynatrain.collective import Collective
from dynatrain.generation.generation import Generation
from dynatrain.generation.seats import Seats
from dynatrain.layout import Layout
from dynatrain.report import SwitchReport
from dynatrain.switch.beginning import Initialize
from dynatrain.switch.decided import Vote


class Joining:
    """The port of a driver, over the calls of one rank; see ``elastic.driver.Session``.

    Args:
        part: the calls of all ranks.
        initialize: fills the first state, or None.
        keep: the kept objects.
        callbacks: of the script, told of switches that are done.
    """

    def __init__(
        self,
        part: Collective,
        initialize: Initialize | None,
        keep: Mapping[str, Any],
        callbacks: Sequence[Callable[[SwitchReport], None]],
    ) -> None:
        self._part = part
        self._initialize = initialize
        self._keep = keep
        self._callbacks = callbacks

    def vote_by(self, vote: Vote) -> None:
        """Has every switch be decided by ``vote``."""
        self._part.vote = vote

    @property
    def completed(self) -> int:
        """Completed steps."""
        return self._part.progress.completed

    def begin(self, generation: Generation, layout: Layout) -> None:
        """Builds the first world and state; collective over the generation."""
        self._part.regroup(generation)
        self._begun(lambda: self._part.start(layout, self._initialize, self._keep))
        self._part.vote(str(layout), 0)

    def stand_by(self, generation: Generation, seats: Seats, epoch: int, step: int) -> None:
        """Takes note of the world of others, in which this rank has no place."""
        self._part.regroup(generation)
        self._part.progress.completed = step
        if self._part.present.seats is None:
            self._begun(lambda: self._part.stand_by(seats, epoch, self._keep))
        else:
            self._part.stand_by(seats, epoch, self._keep)

    def _begun(self, begin: Callable[[], None]) -> None:
        """What ``init`` does around the first state of a session."""
        adapter, present = self._part.adapter, self._part.present
        adapter.begin_anew()
        with adapter.undisturbed():
            begin()
        with adapter.undisturbed():
            errors = present.move_kept()
        if errors:
            raise errors[0]

    def go(self, generation: Generation, layout: Layout) -> None:
        """Switches among the members of a generation; collective over it."""
        self._part.regroup(generation)
        self._part.switch(layout, None, self._callbacks)

    def back_to(self, generation: Generation | None) -> None:
        """Goes on with a former generation, or as before the first one."""
        if generation is None:
            self._part.present.leave()
        else:
            self._part.regroup(generation)
