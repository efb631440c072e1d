"""An attempt of the protocol as a member has it, before its switch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event

from dynatrain._errors import LayoutError, TransportError
from dynatrain.elastic.attempts import UncoveredError, is_hole
from dynatrain.elastic.driven import Driven
from dynatrain.elastic.slices import Slices
from dynatrain.generation.generation import Generation
from dynatrain.generation.seats import Seats
from dynatrain.layout import Layout
from dynatrain.switch.standing import Standing


@dataclass(frozen=True, kw_only=True)
class Ready:
    """An attempt whose generation stands.

    Attributes:
        generation: of all who are in the source or the target; the target's ranks come first.
        source: who trains now, or what is left of them in a recovery; None where nobody does.
        target: the layout to go to.
        world: the epoch of that, which the coordinator has counted.
        epoch: of the source, 0 for none.
        version: of a recovery, the completed steps of what is left; else None.
        slices: what the thread of a planned change has the training thread do.
        taken: of a recovery, set when this member has what is left of the version.
        held: of a recovery, done when the training thread has prepared the switch.
        ahead: done when the thread of a planned change has prepared it beside training; never
            where it is prepared in the stop.
        standing: what it has prepared, until the switch takes it.
    """

    generation: Generation
    source: Seats | None
    target: Layout
    world: int
    epoch: int
    version: int | None
    slices: Slices
    held: Future[None] = field(default_factory=Future)
    taken: Event = field(default_factory=Event)
    ahead: Future[None] = field(default_factory=Future)
    standing: list[Standing] = field(default_factory=list)

    def prepare_ahead(self, session: Driven, source: tuple[Seats, int]) -> None:
        """Prepares a planned change beside training; what fails is raised, and known to others."""
        self.ahead.set_running_or_notify_cancel()
        try:
            self.standing.append(
                session.prepare_ahead(self.generation, source, self.target, self.slices.run)
            )
            self.ahead.set_result(None)
        except BaseException as error:
            self.ahead.set_exception(error)
            raise

    def await_held(self, patience: timedelta) -> None:
        """Waits until the training thread has prepared a recovery; raises what that raises there.

        Raises:
            TransportError: it has not within ``patience``.
        """
        seconds = patience.total_seconds()
        try:
            self.held.result(seconds)
        except TooLate:
            if self.held.done():
                self.held.result()  # it came at the last moment
                return
            raise TransportError(
                f"elastic: the recovery to {self.target} was given up: the training thread has not "
                f"prepared it from what is held of {self.version} steps for {seconds:g} s "
                "(timeout_s)\n"
                "  expected it to stand, and to prepare it at once\n"
                "  nothing was moved; what each member holds is as it was\n"
                "  the coordinator tries again; a longer timeout_s lets it take longer"
            ) from None


def uncovered(
    ready: Ready, error: LayoutError, lost: str, versions: Sequence[int]
) -> UncoveredError:
    """What a member says of a version that cannot be put together.

    Args:
        ready: the recovery to it.
        error: of its preparation.
        lost: the members that are there no more, in words.
        versions: that this member can go back to.
    """
    first, *more = [line.strip() for line in str(error).splitlines()]
    detail = f" ({more[0]})" if more and is_hole(error) else ""
    whose = f", as {lost} is lost" if lost else ""
    assert ready.version is not None
    earlier = max((each for each in versions if each < ready.version), default=None)
    then = "" if earlier is None else f"what is kept of step {earlier} is asked next"
    return UncoveredError(
        f"the state of {ready.version} steps is not whole{whose}: {first}{detail}",
        may_be_the_target=ready.taken.is_set() and not is_hole(error),
        then=then,
    )
