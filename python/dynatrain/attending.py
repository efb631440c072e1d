"""The part of a rank that idles: it waits for what the others call, and takes part in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from dynatrain._errors import Error, TransportError, ends_job, of_family
from dynatrain.generation.engine import Engine
from dynatrain.generation.rendezvous import Rendezvous
from dynatrain.layout import Layout
from dynatrain.report import SwitchReport
from dynatrain.switch.calls import Call, Calls, Met
from dynatrain.switch.clock import Clock
from dynatrain.switch.present import Present
from dynatrain.switch.questions import QUESTIONS
from dynatrain.switch.story import tell_script

_log = logging.getLogger("dynatrain.session")

#: What a switch returns: its report, and what kept objects raised when it was done.
Done = tuple[SwitchReport, list[BaseException]]
#: The clock of a call, and what is closed when the call has ended on this rank.
Within = tuple[Clock, ExitStack]


@dataclass(frozen=True)
class Duties:
    """What this rank does of an operation that others called.

    Attributes:
        public: what a call runs under.
        refusal: why this session makes no calls any more, or None.
        is_ready: whether what it holds prepared still stands.
        places: the layouts that it has its place in.
        reconnect: makes the groups of all ranks anew where a call says that they are lost.
        prepare: prepares a layout with new names of tensors.
        rehearse: tries a switch to a layout with new names of tensors.
        switch: makes the switch that a call asks for.
        callbacks: of the script, told of a switch that is done.
    """

    public: Callable[[str], AbstractContextManager[None]]
    refusal: Callable[[], Error | None]
    is_ready: Callable[[], bool]
    places: Callable[[], tuple[str, ...]]
    reconnect: Callable[[Met], None]
    prepare: Callable[[Layout, Mapping[str, str], Met], object]
    rehearse: Callable[[Layout, Mapping[str, str], Met], object]
    switch: Callable[[Call, Met, Within], Done]
    callbacks: Sequence[Callable[[SwitchReport], None]]


class Attendant:
    """A rank's waiting for the others while it idles, and their word that they are done.

    Args:
        engine: of the job.
        meeting: where the ranks meet.
        calls: the meetings over ``meeting``.
        present: what the rank is now; it idles while this has no world.
    """

    def __init__(self, engine: Engine, meeting: Rendezvous, calls: Calls, present: Present) -> None:
        self._engine = engine
        self._meeting = meeting
        self._calls = calls
        self._now = present

    def announce(self, ended: str, step: int) -> None:
        """Tells ranks that idle that the loop named ``ended`` is over after ``step`` steps."""
        try:
            self._meeting.announce(ended, str(step))
        except TransportError as error:  # nobody is left to hear it
            _log.warning("ranks that idle were not told of the end of the loop: %s", error)

    def await_activity(self, ended: str, duties: Duties) -> int | None:
        """Attends what others call while this rank idles.

        Returns:
            None once the rank is active; the steps that the others completed when their loop,
            named ``ended``, is over before that.
        """
        while self._now.world is None:
            if not self._meeting.wait_called(ended):
                return int(self._meeting.announced(ended))
            self._attend(duties)
        return None

    def _attend(self, duties: Duties) -> None:
        """An idle rank's part in an operation that others called."""
        epoch = self._now.epoch
        with ExitStack() as after:
            try:
                with duties.public("a call of the others"):
                    done = self._join_call(duties, after)
            except Error as error:
                if self._now.epoch != epoch or ends_job(error):  # not whole, or nobody knows where
                    raise
                _log.warning("an idle rank saw a call fail: %s", error)
                return
            if done is not None:
                tell_script(duties.callbacks, *done)

    def _join_call(self, duties: Duties, after: ExitStack) -> Done | None:
        """Does what the others have called; returns what a switch returns."""
        clock = Clock(self._engine.rank)
        ready, problem = False, duties.refusal()
        try:
            ready = problem is None and duties.is_ready()
        except Exception as error:  # noqa: BLE001 - the others must learn of it, not wait
            problem = of_family(error, "an idle rank")
        own = Call("attend", "", 0, ready, self._engine.connected, places=duties.places())
        met = self._calls.meet(own, problem)
        duties.reconnect(met)
        asked = next(call for call in met.calls if call.operation != "attend")
        if asked.operation in QUESTIONS:
            QUESTIONS[asked.operation](self._engine, None)
            return None
        layout, names = Layout.parse(asked.layout), dict(asked.names)
        if asked.operation == "prepare":
            duties.prepare(layout, names, met)
            return None
        if asked.operation == "check":
            duties.rehearse(layout, names, met)
            return None
        return duties.switch(asked, met, (clock, after))
