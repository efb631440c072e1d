"""Threads that connect still when their world has ended: the process waits for them at its end.

A group of Gloo whose peer has died is made until its deadline, and nothing ends that. A thread that
comes back from it while the interpreter ends is thrown out of C++ frames that let nothing pass:
SIGABRT would end the process, behind a script that has done all of its work.
"""

from __future__ import annotations

import atexit
import threading
import time

_until: dict[threading.Thread, float] = {}
_lock = threading.Lock()


def outlives(thread: threading.Thread, seconds: float) -> None:
    """Has the end of the process wait for ``thread``, ``seconds`` from now at most."""
    with _lock:
        for each in [each for each in _until if not each.is_alive()]:
            del _until[each]
        _until[thread] = time.monotonic() + seconds


@atexit.register
def _await() -> None:
    with _lock:
        late = [*_until.items()]
    for thread, until in late:
        thread.join(max(0.0, until - time.monotonic()))
