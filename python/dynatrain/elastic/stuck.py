"""A training thread that stands: in a step that does not end, or where nothing can end it."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from types import FrameType
from typing import NoReturn

from dynatrain._threads import started
from dynatrain.elastic.asked import Asked
from dynatrain.elastic.ends import error_of

_log = logging.getLogger("dynatrain.elastic")
#: As of a script that the error of its loop has ended.
_STATUS = 1
#: For the last words: what the thread hangs in may be the writing of others.
_WORDS_S = 5.0
#: Processor time of a thread that does something; what hangs has less in any time.
_BUSY_S = 0.1
#: The lower bits of Linux's clocks of threads: of one thread, and its processor time.
_CLOCK_OF_THREAD = 4 | 2
#: Of a thread that a warning shows, the innermost.
_MOST_CALLS = 4


def why_lost(asked: Iterable[Asked]) -> str:
    """Why a member ends by an error that its training thread has not heard of yet; or empty."""
    ends = (each.why for each in asked if each.kind == "end")
    return next((why for kind, why in ends if error_of(kind, why) is not None), "")


def _end_process() -> NoReturn:
    os._exit(_STATUS)


class Stuck:
    """Tells of a step that does not end, and ends the process where nothing else will.

    Gloo, for one, does not end a wait for a message that a peer has begun to send when it died: the
    group's own deadline does, after half an hour. A launcher would wait as long before it starts
    another process in place of this one, which has no part in the job any more.

    A thread stands as long as it is seen in the same line of the same calls, and takes no processor
    time to speak of; a loop that sleeps looks like that, too.

    Args:
        patience_s: so long the thread may stand.
        clock: seconds that never go back.
        end: ends the process.
    """

    def __init__(
        self,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[], None] = _end_process,
    ) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._end = end
        self._thread: threading.Thread | None = None
        self._stand: tuple[object, ...] = ()
        self._since = self._looked = 0.0
        self._lock = threading.Lock()
        self._warns_s = math.inf  #: when the step takes too long

    def watch(self, thread: threading.Thread) -> None:
        """Says which thread trains, and that it is between two steps."""
        with self._lock:
            self._thread, self._warns_s = thread, math.inf

    def begins(self) -> None:
        """A step does."""
        with self._lock:
            self._warns_s = self._clock() + self._patience_s

    def _warn_of_long_step(self) -> None:
        """Says where a step stands that does not end: nothing else tells, and others wait in it."""
        now, thread, due_s = self._clock(), self._thread, self._warns_s
        if now < due_s or thread is None or thread.ident is None:
            return
        with self._lock:
            if self._warns_s != due_s:
                return  # the step has ended meanwhile
            self._warns_s = now + self._patience_s
        frame = sys._current_frames().get(thread.ident)
        if frame is not None:  # the files of its code may be on a disk that hangs
            started("dynatrain tells of a long step", self._tell_of_long_step, frame)

    def _tell_of_long_step(self, frame: FrameType) -> None:
        where = traceback.format_list(traceback.extract_stack(frame)[-_MOST_CALLS:])
        _log.warning(
            "a step has not ended for %g s (timeout_s); where all others stand in a collective and "
            "one does not, that one holds them up: kill it, and they go on without it\n"
            "  this member's training thread is at\n%s",
            self._patience_s,
            "".join(where).rstrip(),
        )

    def look(self, why: str) -> None:
        """Looks once more where the thread stands: in a long step, or where it hears no end.

        Args:
            why: it is to end; empty where it is not, or has heard it.
        """
        self._warn_of_long_step()
        thread = self._thread
        if not why or thread is None or not thread.is_alive() or thread.ident is None:
            self._stand = ()
            return
        frame = sys._current_frames().get(thread.ident)
        stand, now = (_processor_time(thread.native_id or 0), *_calls(frame)), self._clock()
        was_stopped, self._looked = now - self._looked > self._patience_s / 4, now
        if stand != self._stand or was_stopped:  # all of this process was, and nothing ran in it
            self._stand, self._since = stand, now
        elif now - self._since >= self._patience_s:
            words = "".join(traceback.format_stack(frame))
            speaker = started("dynatrain says its last words", self._say, why, words)
            if speaker is not None:
                speaker.join(_WORDS_S)
            self._end()

    def _say(self, why: str, where: str) -> None:
        _log.critical(
            "this member has ended, and its training thread has stood in one place for %g s since: "
            "%s\n"
            "  expected it to come to the end of its step, or to an error of the group that it "
            "waits in\n"
            "  this process ends; nothing of it is part of the job any more. It stands at\n%s",
            self._patience_s,
            why,
            where,
        )
        logging.shutdown()


def _processor_time(thread: int) -> int:
    """Of a thread by the kernel's number, in pieces that a thread which hangs does not fill.

    Linux makes its clock of that number, and refuses that of a thread which has ended;
    ``pthread_getcpuclockid`` would read memory of it that may be gone.
    """
    try:
        return int(time.clock_gettime((~thread << 3) | _CLOCK_OF_THREAD) / _BUSY_S)
    except OSError:
        return 0


def _calls(frame: FrameType | None) -> list[tuple[int, int]]:
    """Each call on its way, and how far it is."""
    found = []
    while frame is not None:
        found.append((id(frame), frame.f_lasti))
        frame = frame.f_back
    return found
