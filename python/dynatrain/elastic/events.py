"""What happens to a member, told to its script between two steps."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_log = logging.getLogger("dynatrain.elastic")
#: Events that a script has not come to hear of yet; older ones are forgotten.
_MOST_UNTOLD = 256


@dataclass(frozen=True)
class Event:
    """One thing that has happened.

    Attributes:
        kind: ``preparing``, ``given-up``, ``switched``, ``went-back``, ``halted``, ``snapshot``,
            ``checkpoint``, ``resumed``, ``coordinator-lost``, ``coordinator-found`` or ``ended``.
        text: what it was, in words.
    """

    kind: str
    text: str


class Events:
    """Gathers events in any thread, and tells the script in its own."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Event], None]] = []
        self._untold: deque[Event] = deque(maxlen=_MOST_UNTOLD)

    def call(self, callback: Callable[[Event], None]) -> None:
        """Has ``callback`` be told from now on."""
        self._callbacks.append(callback)

    def note(self, kind: str, text: str) -> None:
        """Takes note of an event; the script hears of it when it comes to its next boundary."""
        self._untold.append(Event(kind, text))

    def tell(self) -> None:
        """Tells the script what has happened since; what a callback raises is logged."""
        while self._untold:
            event = self._untold.popleft()
            for callback in self._callbacks:
                try:
                    callback(event)
                except Exception:  # noqa: BLE001 - the script's own; training depends on none of it
                    _log.exception("a callback of on_event raised on %s", event)
