"""Python's garbage collector and the time in which all ranks wait for each other."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_held_off() -> Iterator[None]:
    """No full collection until the end; then as the process had it.

    A switch makes enough objects for one, which takes a quarter of a second with torch loaded, and
    each rank would hold up all others with its own. Afterwards they collect side by side.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
