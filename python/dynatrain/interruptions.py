"""Signals while a switch is decided: held off, so that no rank is torn between two worlds."""

from __future__ import annotations

import inspect
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def signals_held_off() -> Iterator[None]:
    """Runs handlers that the script has for signals when the body has ended, in their order.

    A handler may raise, as that of Ctrl-C does, wherever the interpreter stands. Ends as soon as
    the body does, with what the first handler raised. Handlers run in the main thread alone; in any
    other there is nothing to hold off.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers: dict[int, Callable[..., Any]] = {}
    try:
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler
                signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        _deliver(handlers, came)


def _deliver(handlers: Mapping[int, Callable[..., Any]], came: Sequence[int]) -> None:
    """Puts every handler back and runs those that are due, also where one of them raises."""
    raised: BaseException | None = None
    for number, handler in handlers.items():
        # Setting one lets those run that are back already and whose signal comes just now.
        while signal.getsignal(number) is not handler:
            try:
                signal.signal(number, handler)
            except BaseException as error:  # noqa: BLE001 - raised again below
                raised = raised or error
    for number in came:  # what came while handlers were put back, too
        try:
            handlers[number](number, inspect.currentframe())
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised = raised or error
    if raised is not None:
        raise raised
