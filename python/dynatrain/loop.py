"""The loop of a script: its steps, and what runs between two of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Protocol

from dynatrain.adapters.port import Watched
from dynatrain.attending import Attendant
from dynatrain.collective import Collective
from dynatrain.elastic.events import Events
from dynatrain.given import described
from dynatrain.layout import Layout
from dynatrain.report import SwitchReport
from dynatrain.requested import Requested

_log = logging.getLogger("dynatrain.session")


class Gate(Protocol):
    """Says whether the next step may begin, where others than the script decide it."""

    def may_train(self) -> bool:
        """Blocks until a step may begin; False when this rank is to end."""

    def ends_at(self, total: int) -> None:
        """So many steps are to be done."""

    def finish(self) -> bool:
        """All steps are done; False where one may have to be done again. Blocks until it knows."""

    def quit(self) -> None:
        """The script has left its loop before its end: the others go on without this process."""

    def survives(self, error: Exception) -> bool:
        """Whether a step has failed for what happened to another member; blocks until it knows."""

    def request(self, layout: Layout) -> Future[SwitchReport]:
        """Asks whoever decides for a layout."""

    events: Events  #: of this member

    def leave(self, grace_s: float) -> None:
        """Asks to be left out of the next world; the process ends after ``grace_s`` at most."""

    @property
    def ended(self) -> tuple[str, str]:
        """Kind and reason of the end of this member; empty before it."""


class Loop:
    """Steps through the training of one rank; see :meth:`dynatrain.Session.steps`.

    Args:
        part: the calls of all ranks.
        callbacks: of the script, told of switches that are done.

    Attributes:
        request: the switch that is asked for at the next boundary, or None.
        gate: of a job whose members come and go, else None.
    """

    def __init__(
        self, part: Collective, callbacks: Sequence[Callable[[SwitchReport], None]]
    ) -> None:
        self.request: Requested | None = None
        self.gate: Gate | None = None
        self._part = part
        self._now = part.present
        self._progress = part.progress
        self._callbacks = callbacks
        self._attendant = Attendant(part, callbacks)
        self._keeper = part.keeper

    def steps(self, total: int) -> Iterator[int]:
        """Yields the number of every step up to ``total``."""
        self._leave(self._progress.running)  # where somebody still holds it
        loop = self._progress.enter()
        failed = False
        if self.gate is not None:
            self.gate.ends_at(total)
        try:
            while self._goes_on(loop, total):
                self._progress.begin(loop, self._now.epoch, self._watch)
                yield self._progress.completed
                self._progress.end(loop)
                self._run_request()
        except GeneratorExit:  # the script has left its loop
            if self.gate is not None:
                self.gate.quit()
            raise
        except BaseException:
            failed = True  # on this rank alone: ranks that idle wait for the others
            if self.gate is not None:
                self.gate.quit()
            raise
        finally:
            self._leave(loop, failed=failed)

    @contextmanager
    def recoverable(self) -> Iterator[None]:
        """See :meth:`dynatrain.Session.recoverable`."""
        if self.gate is None:
            yield
            return
        self._keeper.begin()
        try:
            yield
        except Exception as error:
            if not self.gate.survives(error):
                raise
            _log.warning("step %d was cut short: %s", self._progress.completed, described(error))
            self._keeper.fail()
        else:
            self._keeper.end()

    def _leave(self, loop: int, *, failed: bool = False) -> None:
        """Ends a loop once, and tells ranks that idle, unless it failed on this one."""
        if not self._progress.leave(loop) or failed or self._now.world is None:
            return
        if self.gate is not None:
            return  # who idles in an elastic job waits for its coordinator
        assert self._now.seats is not None
        seats = self._now.seats
        if seats.leaves_idle({each.id for each in self._part.generation.members.each}):
            num_ranks = seats.layout.world_size
            self._attendant.leave(f"ended/{loop}", self._progress.completed, num_ranks)

    def _goes_on(self, loop: int, total: int) -> bool:
        """Whether another step begins; blocks while this rank has no place, or may not train."""
        if self.gate is None:
            if self._part.closed:  # in the body of the loop
                if self._progress.completed < total:
                    raise self._part.was_closed()
                return False
            return self._await_activity(loop) and self._progress.completed < total
        if self.gate.ended != ("", ""):  # the script has left an earlier loop
            return False
        while self._progress.completed < total or not self.gate.finish():
            if not self.gate.may_train():
                return False
            if self._progress.completed < total:  # else it was resumed from its last step
                return True
        return False

    def _await_activity(self, loop: int) -> bool:
        """Attends what others call while this rank idles; False when their loop has ended."""
        if self._now.world is not None:
            return True
        last = self._attendant.await_activity(f"ended/{loop}")
        if last is None:
            return True
        self._progress.completed = last  # calls name it, also this rank's
        return False

    def _watch(self) -> Watched:
        assert self._now.state is not None  # a rank that idles begins no step
        return self._part.adapter.watch(self._now.state)

    def _run_request(self) -> None:
        if self.request is None:
            return
        wish, self.request = self.request, None
        wish.run(lambda problem: self._part.switch(wish.layout, None, self._callbacks, problem))
