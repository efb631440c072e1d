"""Layouts that the script of one member wishes for, and the futures that tell how it went."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from dynatrain._errors import Error, LayoutError, TransportError, of_family
from dynatrain._threads import Beside
from dynatrain.layout import Layout
from dynatrain.report import SwitchFuture, SwitchReport


class Wishes:
    """Asks the coordinator for layouts.

    Args:
        ask: puts a question to the coordinator; raises where it refuses or is not there.
        poll_s: between two questions whether a layout may still come.
    """

    def __init__(
        self, ask: Callable[[Mapping[str, Any]], Mapping[str, Any]], poll_s: float = 2.0
    ) -> None:
        self._ask = ask
        self._poll_s = poll_s
        self._lock = threading.Condition()
        self._open: list[tuple[str, Future[SwitchReport]]] = []

    def wish(self, layout: Layout) -> Future[SwitchReport]:
        """Asks in a thread; the future has the report of the next switch to ``layout``.

        Or why none comes: the job is in it, members have refused it, or another layout was wished
        for.
        """
        future: Future[SwitchReport] = SwitchFuture()
        with self._lock:
            self._open.append((str(layout), future))
        try:
            Beside("dynatrain watches a wish", self._watch, str(layout), future).start()
        except RuntimeError as error:
            self._fail(future, error)
        return future

    def _watch(self, layout: str, future: Future[SwitchReport]) -> None:
        """Asks for a layout, and from time to time whether it may still come."""
        try:
            epoch = self._ask({"ask": "resize", "layout": layout})["world"]["epoch"]
            while self._is_open(future):
                why_not = self._why_not(layout, epoch)
                if why_not:
                    raise _refused(layout, why_not)
        except Exception as error:  # noqa: BLE001 - the script may wait for the future without end
            self._fail(future, error)

    def _fail(self, future: Future[SwitchReport], error: Exception) -> None:
        with self._lock:
            self._open = [each for each in self._open if each[1] is not future]
        _end(future, of_family(error, "asking the coordinator for a layout"))

    def _is_open(self, future: Future[SwitchReport]) -> bool:
        """Waits for a while; whether the future is still to be told something."""
        with self._lock:
            self._lock.wait_for(lambda: not self._has(future), self._poll_s)
            return self._has(future)

    def _has(self, future: Future[SwitchReport]) -> bool:
        return not future.done() and any(each is future for _, each in self._open)

    def _why_not(self, layout: str, epoch: int) -> str:
        try:
            answer = self._ask({"ask": "wish", "layout": layout, "epoch": epoch})
            return str(answer["why_not"])
        except TransportError:
            return ""  # a coordinator that is away may come back, and has the wish in its ledger

    def fulfilled(self, report: SwitchReport) -> None:
        """A switch is done."""
        with self._lock:
            due = [future for layout, future in self._open if layout == report.target]
            self._open = [each for each in self._open if each[0] != report.target]
            self._lock.notify_all()
        for future in due:
            with suppress(InvalidStateError):  # the script has cancelled it
                future.set_result(report)

    def end(self) -> None:
        """No switch follows."""
        with self._lock:
            left, self._open = self._open, []
            self._lock.notify_all()
        for layout, future in left:
            _end(
                future,
                LayoutError(
                    f"elastic: this member has ended before a switch to {layout}\n"
                    "  expected its coordinator to find members and a moment for it\n"
                    "  nothing was changed\n  `dynatrain status` tells why a change waits"
                ),
            )


def _refused(layout: str, why: str) -> LayoutError:
    return LayoutError(
        f"elastic: no switch to {layout} follows\n"
        f"  expected another one than the job's, members that can take it, no other wish: {why}\n"
        "  nothing was changed; training goes on as it is\n"
        "  ask for it again once that is mended, or for another layout"
    )


def _end(future: Future[SwitchReport], error: Error) -> None:
    with suppress(InvalidStateError):  # the script has cancelled it
        future.set_exception(error)
