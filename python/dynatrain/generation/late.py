"""Threads beside training, and those that connect still when the process is to end: it waits.

A group of Gloo whose peer has died is made until its deadline, and nothing ends that. A thread that
comes back from it while the interpreter ends is thrown out of C++ frames that let nothing pass:
SIGABRT would end the process, behind a script that has done all of its work.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import Any

#: What a thread takes behind its deadline to come to its end.
_MARGIN_S = 10.0
_until: dict[threading.Thread, float] = {}
_lock = threading.Lock()


def started(name: str, work: Callable[..., None], *args: Any) -> threading.Thread | None:
    """Does ``work`` in a thread; None where the system gives none."""
    thread = threading.Thread(target=work, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


def beside(name: str, work: Callable[[], None], seconds: float) -> None:
    """Does ``work``, which has a deadline, in a thread; here where the system gives none."""
    thread = started(name, work)
    if thread is None:
        work()
    else:
        outlives(thread, seconds)


def outlives(thread: threading.Thread, seconds: float) -> None:
    """Has the end of the process wait for ``thread``, which has a deadline in ``seconds``."""
    with _lock:
        for each in [each for each in _until if not each.is_alive()]:
            del _until[each]
        _until[thread] = time.monotonic() + seconds + _MARGIN_S


@atexit.register
def _await() -> None:
    while True:  # a thread that is waited for may have another one be waited for
        with _lock:
            late = [(each, until) for each, until in _until.items() if each.is_alive()]
            _until.clear()
        if not late:
            return
        for thread, until in late:
            thread.join(max(0.0, until - time.monotonic()))
