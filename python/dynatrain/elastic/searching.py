"""Checkpoints that are looked for until that can be told: nobody else knows of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from dynatrain.given import described

_log = logging.getLogger("dynatrain.elastic")


def found_at_last(
    find: Callable[[], list[int]], is_over: Callable[[], bool], pause_s: float
) -> list[int] | None:
    """What ``find`` returns once it does, or None when ``is_over``; another error is logged."""
    said = ""
    while not is_over():
        try:
            return find()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody else can tell
            why = described(error)
            if why != said:
                said = why
                _log.warning("checkpoints cannot be looked for, it is tried again: %s", why)
            time.sleep(pause_s)
    return None
