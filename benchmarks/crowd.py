"""Ranks as threads of one process: what they do together, and what they ask of a store."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch.distributed as dist

_Member = TypeVar("_Member")
#: Messages to the store that a call of it takes; one that blocks for its keys asks for them first.
MESSAGES = {"get": 2, "multi_get": 2}


@dataclass
class Tally:
    """What members asked of the store: messages, and bytes of keys, values and answers."""

    requests: int = 0
    size_bytes: int = 0


class Counting:
    """Counts what a store is asked through it."""

    def __init__(self, store: dist.Store, tally: Tally) -> None:
        self._store = store
        self._tally = tally

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def counted(*given: Any) -> Any:
            answer = method(*given)
            if name != "has_extended_api":  # asks nobody
                self._tally.requests += MESSAGES.get(name, 1)
                self._tally.size_bytes += sum(map(size_of, (*given, answer)))
            return answer

        return counted


def size_of(item: Any) -> int:
    """Bytes of a key, a value, or several; numbers travel as 8 bytes."""
    if isinstance(item, str | bytes):
        return len(item)
    if isinstance(item, list | tuple):
        return sum(map(size_of, item))
    return 8 if isinstance(item, int) else 0


class Server:
    """A store's server in a thread of this process, and that thread's clock."""

    def __init__(self) -> None:
        before = set(os.listdir("/proc/self/task"))
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._threads = set(os.listdir("/proc/self/task")) - before

    def client(self) -> dist.TCPStore:
        """Another connection to it."""
        return dist.TCPStore("127.0.0.1", self.store.port, is_master=False, wait_for_workers=False)

    def processor_seconds(self) -> float:
        """What the server's threads have run."""
        clocks = [Path("/proc/self/task", thread, "schedstat") for thread in self._threads]
        return sum(int(clock.read_text().split()[0]) for clock in clocks) / 1e9


class Crowd(Generic[_Member]):
    """Threads that do one thing together, again and again, each for its member."""

    def __init__(self, crowd: Sequence[_Member]) -> None:
        self._crowd = crowd
        self._gate = threading.Barrier(len(crowd) + 1)
        self._work: Callable[[_Member], object] | None = None
        self._failures: list[Exception] = []
        self._spans = [(0.0, 0.0)] * len(crowd)
        threading.stack_size(1 << 18)
        self._threads = [
            threading.Thread(target=self._run, args=(index,), daemon=True)
            for index in range(len(crowd))
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, index: int) -> None:
        member = self._crowd[index]
        while True:
            self._gate.wait()
            work = self._work
            if work is None:
                return
            begin = time.perf_counter()
            try:
                work(member)
            except Exception as error:  # noqa: BLE001 - told to whoever waits for the crowd
                self._failures.append(error)
            self._spans[index] = (begin, time.perf_counter())
            self._gate.wait()

    def together(self, work: Callable[[_Member], object]) -> float:
        """Seconds from the first member's begin to the last member's end."""
        self._work = work
        self._gate.wait()
        self._gate.wait()
        for failure in self._failures:
            raise failure
        return max(end for _, end in self._spans) - min(begin for begin, _ in self._spans)

    def end(self) -> None:
        """Ends the threads."""
        self._work = None
        self._gate.wait()
        for thread in self._threads:
            thread.join()
