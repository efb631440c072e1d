"""The parent's side: starts workers, hands out runs, keeps deadlines."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import cloudpickle
import torch.distributed as dist

from worker_pool import worker

START_TIMEOUT_S = 120.0
GRACE_S = 5.0
LOG_TAIL_CHARS = 4000


class RankError(AssertionError):
    """One or more ranks raised, hung or died; the message holds a section for each."""

    def __init__(self, title: str, sections: dict[int, str]) -> None:
        self.ranks = sorted(sections)
        body = "\n".join(f"--- rank {rank} ---\n{sections[rank]}" for rank in self.ranks)
        super().__init__(f"{title}\n{body}")


class Worker:
    """One process, the connection to it, and the file that receives its output."""

    def __init__(self, rank: int, store_port: int) -> None:
        self.rank = rank
        self.log = tempfile.NamedTemporaryFile(prefix=f"rank{rank}-", suffix=".log")  # noqa: SIM115
        context = fork_server()
        self.connection, theirs = context.Pipe()
        arguments = (rank, theirs, store_port, self.log.name)
        self.process = context.Process(target=worker.main, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def tail(self) -> str:
        """Returns the end of what the process has printed."""
        return Path(self.log.name).read_text(errors="replace")[-LOG_TAIL_CHARS:]

    def stacks(self) -> str:
        """Asks the process where it stands; returns its stacks as faulthandler prints them."""
        printed_before = len(Path(self.log.name).read_text(errors="replace"))
        os.kill(self.process.pid or 0, signal.SIGUSR1)
        deadline = time.monotonic() + GRACE_S
        text = ""
        while time.monotonic() < deadline and "most recent call first" not in text:
            time.sleep(0.02)
            text = Path(self.log.name).read_text(errors="replace")[printed_before:]
        return text or "(it did not answer SIGUSR1)"

    def obituary(self) -> str:
        """Says how the process ended."""
        self.process.join(timeout=GRACE_S)
        status = self.process.exitcode
        how = f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
        return f"the process ended ({how}); its last output:\n{self.tail()}"

    def kill(self) -> None:
        """Ends the process at once and frees what belongs to it."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.log.close()


@functools.cache
def fork_server() -> ForkServerContext:
    """Starts the process that has imported torch once and forks every worker in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "worker_pool.worker"])
    before = dict(os.environ)
    os.environ.update(
        OMP_NUM_THREADS="1",
        OPENBLAS_NUM_THREADS="1",
        GLOO_SOCKET_IFNAME="lo",
        PYTHONPATH=os.pathsep.join(path for path in sys.path if path),
    )
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


@dataclass
class Progress:
    """The answers of one run so far."""

    values: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)
    dirty: bool = False

    def missing(self, world_size: int) -> list[int]:
        """Returns the ranks that have neither answered nor died."""
        known = self.values.keys() | self.failures.keys() | self.dead
        return [rank for rank in range(world_size) if rank not in known]


class WorkerPool:
    """Processes that run test functions, one rank each; grows to the largest world asked for."""

    def __init__(self) -> None:
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._workers: list[Worker] = []
        self._num_runs = 0

    def run(
        self,
        fn: Callable[..., Any],
        *args: Any,
        world_size: int = 4,
        timeout_s: float = 60.0,
        may_die: Collection[int] = (),
        init_group: bool = True,
    ) -> list[Any]:
        """Calls fn(rank, world_size, *args) on every rank; returns the results in rank order.

        A rank in `may_die` may end its process, its result is then None. With `init_group=False`
        the function starts with no default group. RankError names the ranks that raised, hung
        past `timeout_s` or died; after it, and after a death, the next run gets new processes.
        """
        self._ensure(world_size)
        self._num_runs += 1
        request = (self._num_runs, world_size, timeout_s, init_group, fn, args)
        payload = dumps_by_value(request, fn)
        try:
            for process in self._workers[:world_size]:
                process.connection.send_bytes(payload)
            progress = self._collect(world_size, timeout_s, frozenset(may_die))
        except BaseException:  # pytest's own timeout, Ctrl-C: answers to come are no later run's
            self.close()
            raise
        if progress.failures or progress.dead or progress.dirty:
            self.close()
        if progress.failures:
            raise RankError(f"{fn.__qualname__} failed on {world_size} ranks", progress.failures)
        return [progress.values.get(rank) for rank in range(world_size)]

    def close(self) -> None:
        """Ends every process; the next run starts new ones."""
        for process in self._workers:
            process.kill()
        self._workers.clear()

    def _ensure(self, world_size: int) -> None:
        """Starts the processes that are missing and waits until each has imported torch."""
        started = range(len(self._workers), world_size)
        self._workers += [Worker(rank, self._store.port) for rank in started]
        deadline = time.monotonic() + START_TIMEOUT_S
        for process in self._workers[started.start :]:
            ready = wait([process.connection], timeout=max(0.0, deadline - time.monotonic()))
            try:
                if not ready:
                    raise TimeoutError(f"not ready after {START_TIMEOUT_S} s")
                process.connection.recv_bytes()
            except (EOFError, OSError, TimeoutError) as error:
                message = f"{error or 'it ended while starting'}\n{process.tail()}"
                rank = process.rank
                self.close()
                raise RankError("a worker process did not start", {rank: message}) from error

    def _collect(self, world_size: int, timeout_s: float, may_die: frozenset[int]) -> Progress:
        """Waits for all answers; after the first failure the others get a short grace."""
        progress = Progress()
        deadline = time.monotonic() + timeout_s
        while missing := progress.missing(world_size):
            if progress.failures:
                deadline = min(deadline, time.monotonic() + GRACE_S)
            by_connection = {self._workers[rank].connection: rank for rank in missing}
            ready = wait(list(by_connection), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                self._note_hung(progress, missing, timeout_s)
                break
            for connection in ready:
                self._take(progress, by_connection[connection], may_die)
        return progress

    def _take(self, progress: Progress, rank: int, may_die: frozenset[int]) -> None:
        """Reads the answer of one rank, or learns that its process has ended."""
        process = self._workers[rank]
        try:
            status, value, dirty = cloudpickle.loads(process.connection.recv_bytes())
        except (EOFError, OSError):
            if rank in may_die:
                progress.dead.add(rank)
            else:
                progress.failures[rank] = process.obituary()
            return
        progress.dirty = progress.dirty or dirty
        if status == "returned":
            progress.values[rank] = value
        else:
            progress.failures[rank] = value

    def _note_hung(self, progress: Progress, missing: list[int], timeout_s: float) -> None:
        """Records where the ranks stand that gave no answer."""
        cause = "while others had failed" if progress.failures else f"within {timeout_s} s"
        for rank in missing:
            stacks = self._workers[rank].stacks()
            progress.failures[rank] = f"no answer {cause}; it stands at:\n{stacks}"


def dumps_by_value(request: object, fn: Callable[..., Any]) -> bytes:
    """Pickles a request; the module of `fn` goes along, as workers cannot import test modules."""
    module = sys.modules[fn.__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(request))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
