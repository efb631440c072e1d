"""Meeting points over the store: all ranks arrive, or those that arrived learn who did not.

A meeting is decided by one write-once key, so that every rank that asks gets the same answer. With
no meeting called, nothing here touches the store.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store

from dynatrain._errors import TransportError
from dynatrain.generation.joined import join, split

_GO = "go"
_IDLE_POLL_SECONDS = 0.01
#: Attempts whose keys a rank may leave before it deletes them without having to wait.
_MOST_KEPT = 8


@contextmanager
def _store_answers() -> Iterator[None]:
    """Turns an error of the store into one of the library's."""
    try:
        yield
    except TransportError:
        raise
    except RuntimeError as error:  # a DistError, but of a FileStore
        raise TransportError(
            f"session: the job's store does not answer: {error}\n"
            "  expected the process that holds it, mostly rank 0 or the launcher, to be alive\n"
            "  this rank has switched nothing and its state is intact; others may have, if it was "
            "their vote\n"
            "  save a checkpoint if the groups still work, and start the job again",
            retryable=False,
        ) from error


@dataclass(frozen=True)
class Meeting:
    """One attempt to meet: its name, unique within the job, and what each rank brought."""

    name: str
    payloads: Sequence[bytes]


class Rendezvous:
    """Meetings of all ranks of a job.

    Args:
        store: a store with a prefix of its own.
        rank: this rank.
        num_ranks: ranks that take part in every meeting.
        timeout: how long an arrival waits for the others.
        purpose: tells meetings of one store apart.
    """

    def __init__(
        self, store: Store, rank: int, num_ranks: int, timeout: timedelta, purpose: str = "meet"
    ) -> None:
        self._store = PrefixStore(purpose, store)
        self._rank = rank
        self._num_ranks = num_ranks
        self._timeout = timeout
        self._attempt = 0
        self._last_met = 0  #: the attempt that all ranks came to last: they are past all before it
        self._forgotten = 0  #: attempts whose keys are deleted

    def meet(self, payload: bytes) -> Meeting:
        """Arrives with ``payload`` and waits for all others.

        A rank makes 6 requests to the store, however many ranks there are, and one of them reads
        what all have brought in one more; what was brought is answered once for each distinct
        content. A rank that waits deletes its keys of earlier meetings meanwhile.

        Raises:
            TransportError: not all ranks arrived within the timeout; names the missing ones. The
                others notice nothing, unless they arrive later: then they wait for a new meeting.
        """
        with _store_answers():
            return self._meet(payload)

    def _meet(self, payload: bytes) -> Meeting:
        self._skip_decided()
        name = f"{self._attempt}"
        self._attempt += 1
        self._store.set(f"{name}/rank/{self._rank}", payload)  # type: ignore[arg-type]
        self._store.set(f"{name}/called", "1")
        if self._store.add(f"{name}/count", 1) == self._num_ranks:
            decision = self._go(name)
        else:
            self._forget()
            decision = self._await_decision(name)
        if decision != _GO:
            raise self._missing(name, decision)
        answer = bytes(self._store.get(f"{name}/joined"))
        self._last_met = self._attempt - 1
        if self._last_met - self._forgotten > _MOST_KEPT:
            self._forget()  # this rank is always the last: it never waits
        return Meeting(name, split(answer, self._num_ranks))

    def _go(self, name: str) -> str:
        """Decides that a meeting takes place; whoever does reads what all have brought."""
        keys = [f"{name}/rank/{rank}" for rank in range(self._num_ranks)]
        if self._store.has_extended_api():  # type: ignore[attr-defined]
            payloads = self._store.multi_get(keys)
        else:
            payloads = [self._store.get(key) for key in keys]
        answer = join([bytes(payload) for payload in payloads])
        self._store.set(f"{name}/joined", answer)  # type: ignore[arg-type]
        return self._decide(name, _GO)

    def _forget(self) -> None:
        """Deletes this rank's keys of attempts that all ranks are past."""
        keys = [f"rank/{self._rank}"]
        if self._rank == 0:
            keys += ["called", "count", "joined", "decision"]
        with suppress(RuntimeError):  # who cannot clean up has come all the same
            for earlier in range(self._forgotten, self._last_met):
                for key in keys:
                    self._store.delete_key(f"{earlier}/{key}")
        self._forgotten = self._last_met

    def wait_called(self, ended: str) -> bool:
        """Blocks an idle rank until some rank calls a meeting (True) or ``ended`` is set (False).

        A call that stands while ``ended`` is set was made after the loop: all ranks of the loop
        have left it, and their calls in it were answered or given up before. This rank makes it
        itself, where its own script says so.

        Only for ranks that do not train: it asks the store every few milliseconds.
        """
        with _store_answers():
            while True:
                self._skip_decided()
                # In this order: a call that is seen before the end was made before the end.
                called = self._store.check([f"{self._attempt}/called"])
                if self._store.check([ended]):
                    return False
                if called:
                    return True
                time.sleep(_IDLE_POLL_SECONDS)

    def announce(self, key: str, value: str) -> None:
        """Sets a key that idle ranks look for in :meth:`wait_called`."""
        with _store_answers():
            self._store.set(key, value)

    def announced(self, key: str) -> str:
        """What was announced under a key that is set."""
        with _store_answers():
            return self._store.get(key).decode()

    def _skip_decided(self) -> None:
        while self._store.check([f"{self._attempt}/decision"]):
            self._attempt += 1

    def _decide(self, name: str, decision: str) -> str:
        return self._store.compare_set(f"{name}/decision", "", decision).decode()

    def _await_decision(self, name: str) -> str:
        deadline = time.monotonic() + self._timeout.total_seconds()
        try:
            self._store.wait([f"{name}/decision"], self._timeout)
            return self._store.get(f"{name}/decision").decode()
        except RuntimeError:  # a DistStoreError, but of a FileStore
            if time.monotonic() < deadline - 1.0:
                raise  # the store is gone, which is not a late peer
        # A rank that has brought its payload is in the meeting, counted or not.
        absent = self._absent(name, range(self._num_ranks))
        return self._decide(name, absent) if absent else self._go(name)

    def _absent(self, name: str, ranks: range) -> str:
        """The ranks that have brought nothing; log2(N) requests for each of them."""
        if self._store.check([f"{name}/rank/{rank}" for rank in ranks]):
            return ""
        if len(ranks) == 1:
            return str(ranks[0])
        half = len(ranks) // 2
        parts = [self._absent(name, ranks[:half]), self._absent(name, ranks[half:])]
        return ",".join(part for part in parts if part)

    def _missing(self, name: str, decision: str) -> TransportError:
        ranks = [int(rank) for rank in decision.split(",")]
        seconds = self._timeout.total_seconds()
        return TransportError(
            f"session: a collective call was given up: ranks {ranks} did not arrive\n"
            f"  expected all {self._num_ranks} ranks within {seconds:g} s (meeting {name})\n"
            "  nothing was moved; the source state is intact and training may go on\n"
            "  make the same call on every rank between the same two steps",
            peer=ranks[0] if len(ranks) == 1 else -1,
        )
