"""Who calls a session: the process that made it, one call at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dynatrain._errors import LayoutError


class Caller:
    """Refuses at once what would mix with a call that is under way, or with another process."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._call = ""
        self._thread = ""

    @contextmanager
    def alone(self, call: str) -> Iterator[None]:
        """Runs the body as the only call.

        Raises:
            LayoutError: another call is under way, in another thread or around this one, or the
                process was forked from that of the session. Nothing was sent.
        """
        if os.getpid() != self._process:
            raise LayoutError(
                f"session: {call} was called in process {os.getpid()}, which was forked from the "
                f"session's ({self._process})\n"
                "  expected calls in the process that called dynatrain.init: groups, threads and "
                "sockets are its own\n"
                "  nothing was moved; the session of the other process is intact\n"
                "  call in the training process; a forked one may only read"
            )
        taken = False
        try:
            taken = self._lock.acquire(blocking=False)
            if not taken:
                raise self._busy(call)
            self._call, self._thread = call, threading.current_thread().name
            yield
        finally:
            if taken:
                self._lock.release()

    def _busy(self, call: str) -> LayoutError:
        return LayoutError(
            f"session: {call} was called while {self._call} is under way in thread "
            f"{self._thread!r}\n"
            "  expected one call at a time: the ranks make them together, in one order\n"
            "  nothing was moved by this call; the other one goes on\n"
            "  make the calls of a session in the training thread, one after the other, and "
            "none in what build, a kept object or an extra does"
        )
