"""Ranks as threads of one process, with a fake of all that is outside of them.

The outside is what ranks talk over: a store, host groups, lanes, and signals. A rank dies by
falling silent there: its groups close, and nothing that it does afterwards is heard.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from torch._C._distributed_c10d import HashStore

from dynatrain import _native
from dynatrain.generation.members import Member, Members

#: No rank of a test waits so long for another one: who does is stuck.
STUCK_S = 30


class Killed(BaseException):
    """Ends the thread of a rank that is dead to all others; nobody is to catch it."""


class Wire:
    """What a group of this process is made of: its messages on the way, and who has left it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()  # reentrant: a group may be let go of in a wait
        self.messages: dict[Any, deque] = defaultdict(deque)
        self.left: set[int] = set()

    def leave(self, position: int) -> None:
        with self.changed:
            self.left.add(position)
            self.changed.notify_all()


class Sent:
    """A message that is on its way, or a peer that has left."""

    def __init__(self, arrives: bool) -> None:
        self.arrives = arrives

    def wait(self, _: timedelta) -> None:
        if not self.arrives:
            raise RuntimeError("[127.0.0.1]:1: Connection closed by peer")


@dataclass
class Received:
    """A message that is to come."""

    wire: Wire
    src: int
    key: Any
    buffer: Any

    def wait(self, timeout: timedelta) -> None:
        waiting, seconds = self.wire.messages[self.key], timeout.total_seconds()
        with self.wire.changed:
            self.wire.changed.wait_for(lambda: waiting or self.src in self.wire.left, seconds)
            if waiting:
                self.buffer.copy_(waiting.popleft())
            elif self.src in self.wire.left:
                raise RuntimeError("[127.0.0.1]:1: Connection closed by peer")
            else:
                raise RuntimeError(f"Timed out waiting {seconds * 1000:.0f}ms for recv operation")


class Group:
    """One rank's end of a group; it closes when it is let go of, as Gloo's do."""

    def __init__(self, wire: Wire, position: int) -> None:
        self.wire, self.position = wire, position
        self.close = weakref.finalize(self, wire.leave, position)
        self.close.atexit = False

    def send(self, tensors: Sequence[Any], dst: int, tag: int) -> Sent:
        with self.wire.changed:
            gone = dst in self.wire.left or self.position in self.wire.left
            if not gone:
                self.wire.messages[self.position, dst, tag].append(tensors[0].clone())
                self.wire.changed.notify_all()
        return Sent(arrives=not gone)

    def recv(self, tensors: Sequence[Any], src: int, tag: int) -> Received:
        return Received(self.wire, src, (src, self.position, tag), tensors[0])


def several(number):
    """As many members, to be told apart."""
    return tuple(Member(f"member {rank}") for rank in range(number))


class Outside:
    """Everything between the ranks of one job."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self.members = several(num_ranks)
        self.store = HashStore()
        self.settled = threading.Semaphore(0)  # ranks that have ended or are dead
        self.over = threading.Event()  # all have
        self._told: list[Any] = [None] * num_ranks
        self._barrier = threading.Barrier(num_ranks)
        self._lock = threading.RLock()
        self._wires: dict[str, Wire] = defaultdict(Wire)
        self._loopbacks: dict[str, Any] = {}
        self._ends: dict[int, list] = defaultdict(list)

    def group(self, rank: int, purpose: str, ranks: Sequence[int]) -> Group:
        with self._lock:
            group = Group(self._wires[purpose], ranks.index(rank))
            self._ends[rank].append(group.close)
        return group

    def transport(self, rank: int, connection: str) -> Any:
        with self._lock:
            if connection not in self._loopbacks:
                self._loopbacks[connection] = _native.LoopbackWorld(self.num_ranks)
            world = self._loopbacks[connection]
            self._ends[rank].append(partial(world.kill, rank))
        return world.transport(rank)

    def gathered(self, rank: int, value: Any) -> list[Any]:
        """What all ranks bring, as a step of training would join it; once for each job."""
        self._told[rank] = value
        self._barrier.wait(STUCK_S)
        return list(self._told)

    def kill(self, rank: int) -> None:
        """Ends this rank, whose thread calls it: it is not heard of any more.

        The thread stands still until all others have ended. What it would do on its way out, as
        telling the store that it lives, no killed process does.
        """
        for end in self._ends[rank]:
            end()
        self.settled.release()
        self.over.wait(4 * STUCK_S)
        raise Killed


@dataclass(frozen=True)
class ThreadMembers(Members):
    """The ranks of a session that are threads."""

    outside: Outside

    def group(self, purpose: str, timeout: timedelta, ranks: Sequence[int] | None = None) -> Group:
        chosen = range(self.num_ranks) if ranks is None else ranks
        return self.outside.group(self.rank, f"{self.name}/{purpose}", chosen)


class Signals(threading.local):
    """Ctrl-C for one thread: Python gives the handlers of a process to its main thread alone."""

    holding, came = False, False

    @contextmanager
    def held_off(self):
        """In place of ``signals_held_off``, with what that promises."""
        self.holding = True
        try:
            yield
        finally:
            self.holding = False
            if self.came:
                self.came = False
                raise KeyboardInterrupt

    def interrupt(self) -> None:
        self.came = self.holding
        if not self.holding:
            raise KeyboardInterrupt


SIGNALS = Signals()


def run_ranks(outside, work):
    """What ``work(rank)`` returned on each rank, None on one that was killed.

    Raises what it raised; AssertionError when a living rank does not end.
    """
    results: list[Any] = [None] * outside.num_ranks
    raised: list[BaseException] = []

    def run(rank):
        try:
            results[rank] = work(rank)
        except Killed:
            return
        except BaseException as error:  # noqa: BLE001 - raised again in the test
            raised.append(error)
        outside.settled.release()

    threads = [
        threading.Thread(target=run, args=(rank,), name=f"rank {rank}", daemon=True)
        for rank in range(outside.num_ranks)
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 2 * STUCK_S
    in_time = [outside.settled.acquire(timeout=max(until - time.monotonic(), 0)) for _ in threads]
    outside.over.set()
    for thread in threads:
        thread.join(1)
    if raised:
        raise raised[0]
    assert all(in_time), "a rank does not end its call"
    return results
