"""An attempt of the protocol as a member has it, before its switch."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass, field
from datetime import timedelta

from dynatrain._errors import TransportError
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
        epoch: of the source, as sessions count.
        version: of a recovery, the completed steps of what is left; else None.
        slices: what the thread of a planned change has the training thread do.
        held: of a recovery, done when the training thread has prepared the switch.
        ahead: done when the thread of a planned change has prepared it beside training; never
            where it is prepared in the stop.
        standing: what it has prepared, until the switch takes it.
    """

    generation: Generation
    source: Seats | None
    target: Layout
    epoch: int
    version: int | None
    slices: Slices
    held: Future[None] = field(default_factory=Future)
    ahead: Future[None] = field(default_factory=Future)
    standing: list[Standing] = field(default_factory=list)

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
