"""Ranks as threads of a few processes: what they do together, and what they ask of a store."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
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


def client(port: int) -> dist.TCPStore:
    """A connection to a :class:`Server`."""
    return dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)


class Server:
    """A store's server in a thread of this process, and that thread's clock."""

    def __init__(self) -> None:
        before = set(os.listdir("/proc/self/task"))
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.port = self._store.port
        self._threads = set(os.listdir("/proc/self/task")) - before

    def processor_seconds(self) -> float:
        """What the server's threads have run."""
        clocks = [Path("/proc/self/task", thread, "schedstat") for thread in self._threads]
        return sum(int(clock.read_text().split()[0]) for clock in clocks) / 1e9


@dataclass
class Run:
    """One thing that a crowd has done.

    Attributes:
        seconds: from the first member's begin to the last member's end.
        processor_seconds: of all processes.
        returned: by each member, in their order.
    """

    seconds: float
    processor_seconds: float
    returned: list[Any]


@dataclass
class _Share:
    """What the members of one process did; times are of the machine's monotonic clock."""

    begin: float
    end: float
    processor_seconds: float
    returned: list[Any]
    failures: list[str]


class Crowd(Generic[_Member]):
    """Threads of a few processes that do one thing together, again and again, each for its member.

    Neighbours stand in one process. What members do travels to the processes by name: it is a
    function of a module, or a method.

    Args:
        make: makes the member of a rank, in the thread of it.
        num_ranks: members.
        num_processes: at most as many; each holds about as many members as the others.
    """

    def __init__(
        self, make: Callable[[int], _Member], num_ranks: int, num_processes: int = 1
    ) -> None:
        context = multiprocessing.get_context("forkserver")  # a fork would copy the store's thread
        context.set_forkserver_preload(["dynatrain"])
        self.num_ranks, self.num_processes = num_ranks, min(num_processes, num_ranks)
        bounds = [num_ranks * at // self.num_processes for at in range(self.num_processes + 1)]
        self._drivers, followers = zip(*(context.Pipe() for _ in pairwise(bounds)), strict=True)
        self._processes = [
            context.Process(target=_follow, args=(follower, make, range(*ends)), daemon=True)
            for follower, ends in zip(followers, pairwise(bounds), strict=True)
        ]
        for process, follower in zip(self._processes, followers, strict=True):
            process.start()
            follower.close()  # so that the end of the process is heard
        self._collect()

    def together(self, work: Callable[[_Member], object]) -> Run:
        """Has every member do ``work``.

        Raises:
            RuntimeError: some failed; says how the first of them did.
        """
        for driver in self._drivers:
            driver.send(work)
        return self._collect()

    def _collect(self) -> Run:
        shares: list[_Share] = [driver.recv() for driver in self._drivers]
        for failure in (failure for share in shares for failure in share.failures):
            raise RuntimeError(failure)
        return Run(
            max(share.end for share in shares) - min(share.begin for share in shares),
            sum(share.processor_seconds for share in shares),
            [each for share in shares for each in share.returned],
        )

    def end(self) -> None:
        """Ends the processes."""
        for driver in self._drivers:
            driver.send(None)
        for process in self._processes:
            process.join()


def _follow(driver: Connection, make: Callable[[int], _Member], ranks: range) -> None:
    """One process of a crowd: makes its members, and does what the driver says while it says so."""
    threading.stack_size(1 << 18)
    sys.setswitchinterval(1.0)  # or each thread that waits for the interpreter asks every 5 ms
    with ThreadPoolExecutor(len(ranks)) as threads:
        made = _do(threads, make, ranks)
        members, made.returned = made.returned, []
        driver.send(made)
        while (work := driver.recv()) is not None:
            driver.send(_do(threads, work, members))


def _do(threads: ThreadPoolExecutor, work: Callable[[Any], object], given: Sequence[Any]) -> _Share:
    """Does ``work`` for all that are given together: each on a thread, which begin at once."""
    gate = threading.Barrier(len(given))
    failures: list[str] = []

    def one(each: Any) -> tuple[float, float, object]:
        gate.wait()
        begin, returned = time.perf_counter(), None
        try:
            returned = work(each)
        except Exception:  # noqa: BLE001 - told to whoever drives the crowd
            failures.append(traceback.format_exc())
        return begin, time.perf_counter(), returned

    processor = time.process_time()
    begins, ends, returned = zip(*threads.map(one, given), strict=True)
    processor = time.process_time() - processor
    return _Share(min(begins), max(ends), processor, list(returned), failures)
