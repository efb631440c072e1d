"""Layouts that the script of one member wishes for, and the futures that tell how it went."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from dynatrain._errors import Error, LayoutError
from dynatrain.layout import Layout
from dynatrain.report import SwitchFuture, SwitchReport


class Wishes:
    """Asks the coordinator for layouts.

    Args:
        ask: puts a question to the coordinator; raises where it refuses or is not there.
    """

    def __init__(self, ask: Callable[[Mapping[str, Any]], object]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._open: list[tuple[str, Future[SwitchReport]]] = []

    def wish(self, layout: Layout) -> Future[SwitchReport]:
        """Asks in a thread; the future has the report of the next switch to ``layout``."""
        future: Future[SwitchReport] = SwitchFuture()
        with self._lock:
            self._open.append((str(layout), future))
        threading.Thread(target=self._asked, args=(str(layout), future), daemon=True).start()
        return future

    def _asked(self, layout: str, future: Future[SwitchReport]) -> None:
        try:
            self._ask({"ask": "resize", "layout": layout})
        except Error as error:
            with self._lock:
                self._open = [each for each in self._open if each[1] is not future]
            _end(future, error)

    def fulfilled(self, report: SwitchReport) -> None:
        """A switch is done."""
        with self._lock:
            due = [future for layout, future in self._open if layout == report.target]
            self._open = [each for each in self._open if each[0] != report.target]
        for future in due:
            with suppress(InvalidStateError):  # the script has cancelled it
                future.set_result(report)

    def end(self) -> None:
        """No switch follows."""
        with self._lock:
            left, self._open = self._open, []
        for layout, future in left:
            _end(
                future,
                LayoutError(
                    f"elastic: this member has ended before a switch to {layout}\n"
                    "  expected its coordinator to find members and a moment for it\n"
                    "  nothing was changed\n  `dynatrain status` tells why a change waits"
                ),
            )


def _end(future: Future[SwitchReport], error: Error) -> None:
    with suppress(InvalidStateError):  # the script has cancelled it
        future.set_exception(error)
