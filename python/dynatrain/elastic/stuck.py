"""A member that is to end and whose training thread stands where nothing can end it."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

_log = logging.getLogger("dynatrain.elastic")
#: As of a script that the error of its loop has ended.
_STATUS = 1


def _end_process() -> NoReturn:
    logging.shutdown()
    os._exit(_STATUS)


class Stuck:
    """Ends the process when its training thread has stood in one call for too long.

    Gloo, for one, does not end a wait for a message that a peer has begun to send when it died: the
    group's own deadline does, after half an hour. A launcher would wait as long before it starts
    another process in place of this one, which has no part in the job any more.

    Args:
        thread: that trains, by its identifier.
        patience_s: so long it may stand.
        clock: seconds that never go back.
        end: ends the process.
    """

    def __init__(
        self,
        thread: int,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[], None] = _end_process,
    ) -> None:
        self._thread = thread
        self._patience_s = patience_s
        self._clock = clock
        self._end = end
        self._stand: tuple[tuple[object, int], ...] = ()
        self._since = 0.0

    def look(self, why: str) -> None:
        """Looks once more where the thread stands, which has not yet heard that it is to end.

        Args:
            why: it is to end; empty where it is not, or has heard it.
        """
        frame = sys._current_frames().get(self._thread) if why else None
        if frame is None:
            self._stand = ()
            return
        stand = _stand(frame)
        if stand != self._stand:
            self._stand, self._since = stand, self._clock()
        elif self._clock() - self._since >= self._patience_s:
            _log.critical(
                "this member has ended, and its training thread has stood in one call for %g s "
                "since: %s\n"
                "  expected it to come to the end of its step, or to an error of the group that it "
                "waits in\n"
                "  this process ends; nothing of it is part of the job any more. It stands at\n%s",
                self._patience_s,
                why,
                "".join(traceback.format_stack(frame)),
            )
            self._end()


def _stand(frame: FrameType | None) -> tuple[tuple[object, int], ...]:
    """What differs as soon as a thread goes on: each call on its way, and how far that is."""
    found: list[tuple[object, int]] = []
    while frame is not None:
        found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)
