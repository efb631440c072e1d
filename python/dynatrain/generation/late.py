"""Threads beside training, and those that connect still when the process is to end: it waits.

A group of Gloo whose peer has died is made until its deadline, and nothing ends that. A thread that
comes back from it while the interpreter ends is thrown out of C++ frames that let nothing pass:
SIGABRT would end the process, behind a script that has done all of its work.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable

from dynatrain._threads import started
from dynatrain.given import described

_log = logging.getLogger("dynatrain.session")
#: What a thread takes behind its deadline to come to its end.
_MARGIN_S = 10.0
_until: dict[threading.Thread, float] = {}
_lock = threading.Lock()


def beside(name: str, work: Callable[[], object], seconds: float) -> None:
    """Does ``work``, which has a deadline, in a thread; here where the system gives none."""

    def told() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - nobody waits for it
            _log.warning("%s failed: %s", name, described(error))

    thread = started(name, told)
    if thread is None:
        told()
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
