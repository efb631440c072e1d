"""Who calls a session: the process that made it, one call at a time."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from dynatrain._errors import LayoutError

_T = TypeVar("_T")


class _Call:
    """One that is under way, or that has ended where a signal kept it from saying so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.thread = threading.current_thread().name
        self._ident = threading.get_ident()

    def is_under_way(self) -> bool:
        """Whether its thread is in it still."""
        frame = sys._current_frames().get(self._ident)
        while frame is not None:
            if frame.f_code is Caller.alone.__code__ and frame.f_locals.get("own") is self:
                return True
            frame = frame.f_back
        return False


class Caller:
    """Refuses at once what would mix with a call that is under way, or with another process.

    A handler of a signal may raise between any two steps of Python, those that take note of an end
    among them: whether a call is under way is asked of the stack of its thread.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._taking = threading.RLock()  # a handler may call while this thread takes its turn
        self._call: _Call | None = None

    def alone(self, call: str, work: Callable[[], _T]) -> _T:
        """What ``work`` returns, run as the only call.

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
        own = _Call(call)
        try:
            with self._taking:
                if self._call is not None and self._call.is_under_way():
                    raise _busy(call, self._call)
                self._call = own
            return work()
        finally:
            if self._call is own:
                self._call = None


def _busy(call: str, other: _Call) -> LayoutError:
    return LayoutError(
        f"session: {call} was called while {other.name} is under way in thread {other.thread!r}\n"
        "  expected one call at a time: the ranks make them together, in one order\n"
        "  nothing was moved by this call; the other one goes on\n"
        "  make the calls of a session in the training thread, one after the other, and "
        "none in what build, a kept object or an extra does"
    )
