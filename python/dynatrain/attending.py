"""The part of a rank that idles: it waits for what the others call, and takes part in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from dynatrain._errors import Error, TransportError, ends_job, of_family
from dynatrain.collective import Collective, Done
from dynatrain.generation.rendezvous import Rendezvous
from dynatrain.layout import Layout
from dynatrain.report import SwitchReport
from dynatrain.switch.calls import Call
from dynatrain.switch.clock import Clock
from dynatrain.switch.questions import QUESTIONS
from dynatrain.switch.story import tell_script

_log = logging.getLogger("dynatrain.session")


class Attendant:
    """A rank's waiting for the others while it idles, and their word that they are done.

    Args:
        collective: the calls of all ranks.
        callbacks: of the script, told of switches that are done.
    """

    def __init__(
        self, collective: Collective, callbacks: Sequence[Callable[[SwitchReport], None]]
    ) -> None:
        self._part = collective
        self._callbacks = callbacks

    @property
    def _meeting(self) -> Rendezvous:
        meeting = self._part.generation.meeting
        assert meeting is not None  # a member of an elastic job waits at its gate
        return meeting

    def leave(self, ended: str, step: int, num_ranks: int) -> None:
        """Leaves the loop named ``ended`` after ``step`` steps, one of ``num_ranks`` that do.

        Ranks that idle hear of it when all have.
        """
        try:
            self._meeting.leave(ended, str(step), num_ranks)
        except TransportError as error:  # nobody is left to hear it
            _log.warning("ranks that idle were not told of the end of the loop: %s", error)

    def await_activity(self, ended: str) -> int | None:
        """Attends what others call while this rank idles.

        Returns:
            None once the rank is active; the steps that the others completed when their loop,
            named ``ended``, is over before that.
        """
        while self._part.present.world is None:
            if not self._meeting.wait_called(ended, self._part.generation.control.num_lost):
                layout = self._part.present.layout
                assert layout is not None  # of the world that the others train in
                return int(self._meeting.left_with(ended, layout.world_size))
            self._attend()
        return None

    def _attend(self) -> None:
        """An idle rank's part in an operation that others called."""
        epoch = self._part.present.epoch
        with ExitStack() as after:
            try:
                done = self._part.public("a call of the others", partial(self._join_call, after))
            except Error as error:
                # Where the epoch has gone on it is not whole, else nobody may know where it is.
                if self._part.present.epoch != epoch or ends_job(error):
                    raise
                _log.warning("an idle rank saw a call fail: %s", error)
                return
            if done is not None:
                tell_script(self._callbacks, *done, self._part.engine.rank)

    def _join_call(self, after: ExitStack) -> Done | None:
        """Does what the others have called; returns what a switch returns."""
        collective, targets = self._part, self._part.targets
        clock = Clock(collective.engine.rank)
        problem: Error | None = collective.refusal()
        ready = False
        try:
            ready = problem is None and targets.is_still_ready()
        except Exception as error:  # noqa: BLE001 - the others must learn of it, not wait
            problem = of_family(error, "an idle rank")
        connected, places = collective.generation.connected, targets.places
        epoch = collective.present.epoch
        own = Call("attend", "", 0, ready, connected, places=places, epoch=epoch)
        met = collective.calls.meet(own, problem)
        collective.reconnect(met)
        asked = next(call for call in met.calls if call.operation != "attend")
        if asked.operation in QUESTIONS:
            QUESTIONS[asked.operation](collective.engine, collective.present)
            return None
        layout, names = Layout.parse(asked.layout), dict(asked.names)
        if asked.operation == "prepare":
            targets.prepare(layout, names, met)
            return None
        if asked.operation == "check":
            targets.rehearse(layout, names, met)
            return None
        done = collective.switched(layout, names, met, (clock, after), asked.step)
        collective.progress.completed = asked.step
        return done
