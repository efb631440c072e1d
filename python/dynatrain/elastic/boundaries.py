"""Where the training thread and the thread of snapshots meet: at which boundary copies are made."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from dynatrain.elastic.partners import Brought

#: Why a member has copied nothing, where the next round may do better at once.
LATE = "its training was beyond that boundary when it came to know of it"
SLOW = "its training has not come to a boundary for a third of timeout_s"


#: Between two looks whether a member has something else to do than to wait.
_LOOKS_S = 0.1


class EndedError(Exception):
    """The world of the snapshots has ended."""


class Boundaries:
    """The boundaries of one member's steps in one world.

    Args:
        timeout_s: deadline of a message between members.

    Attributes:
        changed: guards all of it.
        ended: whether the world has.
        at: the boundary that training has come to, in completed steps.
        size: bytes of the state, None as long as nobody has measured.
        last: the boundary at which the script ends, -1 where that is not known.
        blocked_s: how long the last copy has held up training.
        patience_s: for one step; it may be over twice before this member says so, and others
            outwait that.
    """

    def __init__(self, timeout_s: float) -> None:
        self.changed = threading.Condition()
        self.ended = False
        self.at, self.last = 0, -1
        self.size: int | None = None
        self.blocked_s = 0.0
        self.patience_s = timeout_s / 3
        self._timeout_s = timeout_s
        self._due: int | None = None
        self._copies = False  #: the training thread does
        self._brought: Brought | None = None
        self._is_busy = False  #: a copy is made, or taken where it is to go

    # ---- of the training thread ----------------------------------------------------------------

    def wanted_at(self, version: int) -> str:
        """What is wanted at a boundary: ``size``, ``copy`` or nothing."""
        with self.changed:
            self.at = version
            if self.size is None:
                return "size"
            if self._due == version:
                self._due, self._copies, self._is_busy = None, True, True
                return "copy"
            return ""

    def measured(self, size_bytes: int) -> None:
        """So long is the state."""
        with self.changed:
            self.size = size_bytes
            self.changed.notify_all()

    def bring(self, brought: Brought, seconds: float) -> None:
        """The state is copied, or is not; that has blocked the training for so long."""
        with self.changed:
            self._brought, self.blocked_s, self._copies = brought, seconds, False
            self.changed.notify_all()

    def await_next(self, is_over: Callable[[], bool]) -> None:
        """Waits for the next copy's boundary to be known, or ``is_over``, or for a while."""
        self._wait_here(lambda: self._due is None, is_over, self.patience_s)

    def await_rest(self, is_over: Callable[[], bool]) -> None:
        """Waits until what was copied is where it is to go, or is given up, or ``is_over``."""
        self._wait_here(lambda: self._is_busy, is_over, math.inf)

    def _wait_here(
        self, is_so: Callable[[], bool], is_over: Callable[[], bool], seconds: float
    ) -> None:
        until = time.monotonic() + seconds
        with self.changed:
            while is_so() and not self.ended and not is_over() and time.monotonic() < until:
                self.changed.wait(_LOOKS_S)

    # ---- of the thread beside it ---------------------------------------------------------------

    def wait(self, is_there: Callable[[], bool], seconds: float) -> None:
        """Waits until something is so, and no longer than that; raises EndedError at the end."""
        with self.changed:
            self.changed.wait_for(lambda: is_there() or self.ended, seconds)
            self.check()

    def check(self) -> None:
        """Raises EndedError where the world has ended."""
        if self.ended:
            raise EndedError

    def wake(self) -> None:
        """Has whoever waits look again."""
        with self.changed:
            self.changed.notify_all()

    def begin_anew(self) -> None:
        """Forgets what was to be copied, once no copy is being made."""
        while self._copies:
            self.wait(lambda: not self._copies, self.patience_s)
        with self.changed:
            self._due = self._brought = None
            self._is_busy = False
            self.changed.notify_all()

    def brought_at(self, due: int) -> Brought:
        """What the training thread has copied at a boundary; nothing where it has passed it.

        Nor where one of its steps does not end. Once it has begun to copy, that is waited for: the
        slot is being written. A copy has a deadline of its own.
        """
        with self.changed:
            self._is_busy = False
            self.changed.notify_all()
            if self.at >= due:
                return Brought(None, 0, self.size or 0, LATE)
            self._due = due
        at = -1
        while self._lacks(due):
            if self._is_given_up(due, at):
                return Brought(None, 0, self.size or 0, SLOW)
            at = self.at
            self.wait(lambda: not self._lacks(due), self.patience_s)
        self.wait(lambda: self._brought is not None, 2 * self._timeout_s)
        brought, self._brought = self._brought, None
        if brought is None:
            raise TimeoutError("a copy that was begun has not ended")
        self.size = brought.size_bytes or self.size
        return brought

    def _lacks(self, due: int) -> bool:
        """Whether the copy at a boundary has not begun."""
        return self._due == due

    def _is_given_up(self, due: int, at: int) -> bool:
        """Whether training still stands where it stood, or went by; then nothing is copied."""
        with self.changed:
            is_over = self._lacks(due) and (self.at == at or self.at > due)
            if is_over:
                self._due = None
            return is_over
