"""What a driver needs of the session that it drives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dynatrain.generation.engine import AtBoundary
from dynatrain.generation.generation import Generation
from dynatrain.generation.seats import Seats
from dynatrain.layout import Layout
from dynatrain.report import SwitchReport
from dynatrain.switch.decided import Vote
from dynatrain.switch.standing import Standing


class Driven(Protocol):
    """What a driver needs of the session that it drives."""

    def vote_by(self, vote: Vote) -> None:
        """Has every switch be decided by ``vote``."""

    @property
    def completed(self) -> int:
        """Completed steps."""

    @property
    def is_whole(self) -> bool:
        """Whether the state is that of so many steps."""

    @property
    def previous(self) -> Sequence[int]:
        """Earlier versions that can be gone back to."""

    def begin(self, generation: Generation, layout: Layout, epoch: int) -> None:
        """Builds the first world, of this epoch, and state; collective over the generation."""

    def stand_by(self, generation: Generation, seats: Seats, epoch: int, step: int) -> None:
        """Takes note of the world of others, in which this rank has no place."""

    def enter(self, generation: Generation) -> None:
        """Makes the next calls among the members of a generation."""

    def prepare_ahead(
        self, generation: Generation, source: tuple[Seats, int], layout: Layout, run: AtBoundary
    ) -> Standing:
        """Prepares a switch beside training, in a thread; collective over the generation.

        ``run`` has the training thread do a piece of it between two steps; ``source`` is who trains
        now, and the epoch of that.
        """

    def adopt(self, standing: Standing) -> None:
        """Has the next switch take what was prepared ahead."""

    def go(self, layout: Layout) -> SwitchReport:
        """Switches; collective over the generation.

        Raises:
            LostStateError: it was decided, and this member is in the new world without a state.
        """

    def back_to(self, generation: Generation | None) -> None:
        """Goes on with a former generation, or as before the first one."""

    def note_groups(self) -> None:
        """Has groups that the script has made since be ended with the present world's."""

    def abort(self, why: str) -> None:
        """Ends what waits for a peer in the present world, from any thread."""

    def hold(self, generation: Generation, seats: Seats | None, epoch: int, step: int) -> None:
        """Takes ``seats`` for what is left of a halted world, after ``step`` steps."""

    def prepare(self, layout: Layout) -> None:
        """Prepares a switch; collective over the generation."""

    steps_lost: int  #: by the last switch
