"""Threads that begin soon, or not at all: whoever starts one is not to wait for it without end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

#: So often a new thread is waited for, and so long: a stop of the process, or another thread that
#: keeps the interpreter for itself, counts as one of them.
_STARTS, _START_S = 20, 0.1


class _Start(threading.Event):
    """In place of the event for which ``Thread.start`` waits without end.

    A thread for which there is no memory ends before it sets that (CPython's gh-140746).
    """

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None:
            return super().wait(timeout)
        if not any(super(_Start, self).wait(_START_S) for _ in range(_STARTS)):
            seconds = _STARTS * _START_S
            raise RuntimeError(f"can't start new thread: it has not begun within {seconds:g} s")
        return True


class Beside(threading.Thread):
    """A thread beside training that begins soon, or not at all."""

    def __init__(self, name: str, work: Callable[..., object], *args: Any) -> None:
        super().__init__(name=name, daemon=True)
        self._started = _Start()
        self._work: Callable[[], object] = partial(work, *args)
        self._is_claimed = threading.Lock()  #: the work is its own, or it is given up

    def start(self) -> None:
        """Starts it; raises RuntimeError where the system gives no thread, or it does not begin."""
        try:
            super().start()
        except RuntimeError:
            if self._is_claimed.acquire(blocking=False):
                self._work = _nothing
                raise

    def run(self) -> None:
        """Does the work."""
        if self._is_claimed.acquire(blocking=False):
            try:
                self._work()
            finally:
                self._work = _nothing  # frames of an error of the work have this one


def _nothing() -> None:
    """In place of work that is done, or given up."""


def started(name: str, work: Callable[..., object], *args: Any) -> threading.Thread | None:
    """Does ``work`` in a thread; None where the system gives none."""
    thread = Beside(name, work, *args)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread
