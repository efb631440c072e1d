"""What a preparation has the training thread do between two of its steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as TooLate
from datetime import timedelta
from typing import Any, TypeVar

from dynatrain._errors import TransportError

_T = TypeVar("_T")


class Slices:
    """Pieces of one attempt's preparation, run by the training thread one at a time.

    The preparing thread waits for each; whoever gives the attempt up ends the waiting, and no piece
    of it runs from then on.

    Args:
        ask: has the training thread call :meth:`serve` at its next boundary.
        patience: how long that may take.
    """

    def __init__(self, ask: Callable[[], None], patience: timedelta) -> None:
        self._ask = ask
        self._patience = patience
        self._lock = threading.Lock()
        self._waiting: tuple[Callable[[], Any], Future[Any]] | None = None
        self._why_over = ""

    def run(self, work: Callable[[], _T], /) -> _T:
        """What ``work`` returns in the training thread; raises what it raises there.

        Raises:
            TransportError: the attempt was given up, or the training thread does not come, or not
                to the end of ``work``.
        """
        future: Future[_T] = Future()
        with self._lock:
            self._check()
            self._waiting = (work, future)
        self._ask()
        try:
            return future.result(self._patience.total_seconds())
        except (CancelledError, TooLate):
            if future.done() and not future.cancelled():
                raise  # it is the work's own
            with self._lock:
                self._waiting = None
                self._check()
            seconds = f"{self._patience.total_seconds():g} s (timeout_s)"
            if future.running():
                raise _over(
                    f"its piece between two steps has begun, and has not ended within {seconds}"
                ) from None
            raise _over(f"a step has not ended for {seconds}") from None

    def serve(self) -> None:
        """Runs what waits, if anything does; in the training thread."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        work, future = waiting
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except (KeyboardInterrupt, SystemExit) as error:
            future.set_exception(_over(f"the training thread is ended by {error!r}"))
            raise
        except BaseException as error:  # noqa: BLE001 - the preparing thread's to treat
            future.set_exception(error)

    def end(self, why: str) -> None:
        """No piece runs from now on, and nobody waits for one; from any thread."""
        with self._lock:
            self._why_over = self._why_over or why
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting[1].cancel()

    def _check(self) -> None:
        if self._why_over:
            raise _over(self._why_over)


def _over(why: str) -> TransportError:
    return TransportError(
        f"elastic: the preparation of a change was given up: {why}\n"
        "  expected the attempt to go on until its target stands\n"
        "  nothing was moved; training goes on as it was\n"
        "  the coordinator tries again where the change is still wanted"
    )
