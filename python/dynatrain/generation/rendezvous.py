"""Meeting points over the store: all ranks arrive, or those that arrived learn who did not.

A meeting is decided by one write-once key, so that every rank that asks gets the same answer. With
no meeting called, nothing here touches the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store

from dynatrain import words
from dynatrain._errors import TransportError
from dynatrain._torch_private.store_links import answer_within, is_unanswered, shut
from dynatrain.generation.given_up import GivenUp, Silent
from dynatrain.generation.joined import Entry, entries, join, split
from dynatrain.generation.leftovers import Leftovers

#: What stands before the answer of a meeting that took place, and of one that was given up.
_GO, _NO = b"go ", b"no "
_NOTHING = b"?"  #: no value of a meeting is that
#: Between two looks of an idle rank at the store, which a call waits for, and at its connections.
_IDLE_POLL_SECONDS, _IDLE_WATCH_SECONDS = 0.01, 1.0
#: A store that is only busy answers within that.
_LEAST_PATIENCE_SECONDS = 5.0
#: So long is waited for ranks to say that they live, and so much of a reason is told.
_TOLD, _MOST_SAID = timedelta(seconds=1), 300
#: Attempts whose keys a rank may leave before it deletes them without having to wait, and how long
#: it then deletes what else is over.
_MOST_KEPT, _SWEEP_SECONDS = 8, 0.02


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
        self.leftovers = Leftovers()  #: what this rank deletes while it waits
        self._purpose = purpose
        self._store = PrefixStore(purpose, store)
        self._rank = rank
        self._num_ranks = num_ranks
        self._timeout = timeout
        answer_within(store, max(timeout.total_seconds(), _LEAST_PATIENCE_SECONDS))
        self._attempt = 0
        self._called_at = self._passed = -1  #: the attempt as a call began; one that this rank left
        #: The attempt that all ranks came to last: they are past all before it.
        self._last_met = -1
        self._failed_after = -2  #: what that was when a call failed on this rank after it
        self._forgotten = -1  #: attempts whose keys are deleted
        self._left: tuple[str, str] | None = None  #: what this rank has left, until it calls
        self._last_ended = ""  #: what this rank has left or heard the end of last

    @contextmanager
    def _store_answers(self) -> Iterator[None]:
        """Turns an error of the store into one of the library's."""
        try:
            yield
        except TransportError:
            raise
        except RuntimeError as error:  # a DistError, but of a FileStore
            if is_unanswered(error):
                shut(self._store)
            raise TransportError(
                f"session: the job's store does not answer: {error}\n"
                "  expected the process that holds it, mostly rank 0 or the launcher, to be alive\n"
                "  this rank has switched nothing and its state is intact; others may have, if it "
                "was their vote\n"
                "  save a checkpoint if the groups still work, and start the job again",
                retryable=False,
            ) from error

    def begin_call(self) -> None:
        """A call begins on this rank, which comes to a meeting if nothing ends it before."""
        self._called_at = self._attempt

    def meet(self, payload: bytes, moment: str = "", *, is_dated: bool = True) -> Meeting:
        """Arrives with ``payload`` and waits for all others.

        A rank sends 4 messages to the store, however many ranks there are, and one of them reads
        what all have brought in one more; what was brought is answered once for each distinct
        content. Rank 0 deletes the keys of earlier meetings while it waits.

        Args:
            payload: what this rank brings.
            moment: what this rank calls and when, in words. A meeting that was given up at the same
                moment is over for this rank, too; others that it finds given up it passes over. All
                attempts since the last meeting are of one epoch, so that it need not be named.
            is_dated: whether ``moment`` tells this call from later ones of the same kind.

        Raises:
            TransportError: not all ranks arrived within the timeout; names the missing ones. A rank
                that comes later with the same moment is told the same at once, so that its next
                call meets the next one of the others.
        """
        with self._store_answers():
            self._tell_left()
            while True:
                name = str(self._attempt)
                self._attempt += 1
                answer = self._come(name, Entry(moment, payload))
                if answer.startswith(_GO):
                    return self._met(name, answer)
                if int(name) == self._passed:
                    continue  # it was of a call that this rank has left by itself, and knows of
                given_up = words.decode(answer.removeprefix(_NO))
                if given_up.is_over(self._rank, moment, is_dated=is_dated):
                    raise given_up.error(name, self._rank, self._num_ranks)

    def _come(self, name: str, brought: Entry) -> bytes:
        """Brings what this rank has; returns what was decided."""
        self._append(f"{name}/came", brought.of(self._rank))
        if self._store.add(f"{name}/count", 1) == self._num_ranks:
            return self._decide(name)
        self._forget()
        self.leftovers.sweep(lambda: self._store.check([f"{name}/decision"]))
        return self._await_decision(name)

    def _met(self, name: str, answer: bytes) -> Meeting:
        self._last_met = int(name)
        if self._last_met - self._forgotten > _MOST_KEPT:
            self._forget()  # this rank is always the last: it never waits
            until = time.monotonic() + _SWEEP_SECONDS
            self.leftovers.sweep(lambda: time.monotonic() > until)
        return Meeting(name, split(answer.removeprefix(_GO), self._num_ranks))

    def failed(self, why: str = "") -> Silent | None:
        """Says in the store that this rank lived when a call failed after the last meeting.

        Raises nothing: it is said while the error of the call is on its way to the script.

        Two messages, and none where it was said already. A meeting that is given up tells by it who
        is dead from who is late. A rank that leaves the call by itself says ``why`` and asks for
        nothing; the others hear who has not said so, within a second, and all the same: one more
        message and a wait for each, and one of them reads what was said.

        Returns:
            Who has said nothing, and why others left; None where nobody knows.
        """
        if why and self._attempt == self._called_at:
            self._passed = self._attempt
        if self._failed_after == self._last_met:
            return None
        self._failed_after = self._last_met
        name = str(self._last_met)
        # The call's own error is to be heard, and not this one.
        with suppress(Exception), self._store_answers():
            self._append(f"{name}/failed", Entry(why[:_MOST_SAID], b"").of(self._rank))
            are_all = self._store.add(f"{name}/told", 1) == self._num_ranks
            if not are_all and not why:
                self._wait_for(f"{name}/silent", min(_TOLD, self._timeout / 5))
            return self._who_is_silent(name) if are_all or not why else None
        return None

    def _wait_for(self, key: str, patience: timedelta) -> None:
        """Waits for a key, and not longer than that."""
        try:
            self._store.wait([key], patience)
        except RuntimeError as error:
            if is_unanswered(error):
                raise

    def _who_is_silent(self, name: str) -> Silent:
        """What all ranks are told of a call that failed; the first that asks decides it."""
        told = self._read(f"{name}/silent")
        if told == _NOTHING:
            said = self._entries(f"{name}/failed")
            silent = tuple(rank for rank in range(self._num_ranks) if rank not in said)
            left = {rank: entry.moment for rank, entry in said.items() if entry.moment}
            told = self._compare_set(f"{name}/silent", b"", words.encode(Silent(silent, left)))
        found: Silent = words.decode(told)
        return found

    def is_ahead(self, key: str) -> bool:
        """Whether a key of the store is one of a meeting that this rank has not come to."""
        purpose, _, rest = key.partition("/")
        number = rest.partition("/")[0]
        return purpose == self._purpose and number.isdecimal() and int(number) >= self._attempt

    def wait_called(self, ended: str, num_lost: Callable[[], int] = lambda: 0) -> bool:
        """Blocks an idle rank until some rank calls a meeting (True) or ``ended`` is set (False).

        A call that stands while ``ended`` is set was made after the loop: the first call behind it
        sets it, and calls in it were answered or given up before. This rank makes it itself, where
        its own script says so.

        Only for ranks that do not train: it asks the store for two keys every few milliseconds.

        Args:
            ended: the name of the loop of steps.
            num_lost: how many connections to others have ended; asked once a second.

        Raises:
            TransportError: some ranks have left the loop, and the others have not followed; or
                connections have ended, and within the timeout nobody has called, nor said that a
                call has ended on it alone.
        """
        until = None
        watch = _Watch(num_lost, self._timeout.total_seconds())
        with self._store_answers():
            while True:
                # In this order: a call that is seen before the end was made before the end.
                called = self._store.check([f"{self._attempt}/count"])
                if called and self._store.check([f"{self._attempt}/decision"]):
                    self._attempt += 1  # given up: it is over
                    continue
                if self._store.check([f"{ended}/left"]):
                    if self._store.check([ended]):
                        return False
                    until = until or time.monotonic() + self._timeout.total_seconds()
                if called:
                    return True
                if until is not None and time.monotonic() > until:
                    raise self._not_followed(ended)
                if watch.is_over() and watch.num_lost > self._num_living():
                    raise self._died(watch.num_lost)
                time.sleep(_IDLE_POLL_SECONDS)

    def leave(self, ended: str, value: str, num_ranks: int) -> None:
        """Leaves what idle ranks look for in :meth:`wait_called`, which is over with the last one.

        Or with the next call of one that has left. ``num_ranks`` are to leave; 2 messages.
        """
        with self._store_answers():
            self._left, self._last_ended = (ended, value), ended
            self._append(f"{ended}/left", Entry("", b"").of(self._rank))
            if len(self._entries(f"{ended}/left")) >= num_ranks:
                self._tell_left()

    def _tell_left(self) -> None:
        if self._left is not None:
            (ended, value), self._left = self._left, None
            self._store.set(ended, value)

    def _not_followed(self, ended: str) -> TransportError:
        left = sorted(self._entries(f"{ended}/left"))
        which = f"rank {left[0]} has" if len(left) == 1 else f"ranks {left} have"
        return TransportError(
            f"session: {which} left the loop of steps, and the others have not\n"
            f"  expected all ranks that train to leave it within {self._timeout.total_seconds():g} "
            "s of each other, or to call something\n"
            "  nothing was changed; this rank idled and holds no state\n"
            "  look for an exception in the body of the loop there; end the job if they hang",
            peer=left[0] if len(left) == 1 else -1,
        )

    def _num_living(self) -> int:
        """Others that have lived after a call had failed since the last meeting."""
        return len(self._entries(f"{self._last_met}/failed").keys() - {self._rank})

    def _died(self, num_lost: int) -> TransportError:
        seconds = self._timeout.total_seconds()
        return TransportError(
            f"session: {num_lost} of this rank's connections to others have ended while it idled\n"
            f"  expected a call, or the end of their loop, within {seconds:g} s of that\n"
            "  nothing was changed; this rank idled and holds no state\n"
            "  a rank has died, and no call can be made any more: see the output of the others\n"
            "  and end the job",
            retryable=False,
        )

    def left_with(self, ended: str, num_ranks: int) -> str:
        """The value with which what is over was left, by ``num_ranks``; once on each other rank.

        One more message; the last rank deletes the keys of what was over before: those that are to
        hear that have, and those that were to leave it have left this one.
        """
        with self._store_answers():
            value = self._store.get(ended).decode()
            former, self._last_ended = self._last_ended, ended
            if self._store.add(f"{ended}/heard", 1) == self._num_ranks - num_ranks and former:
                for key in (former, f"{former}/left", f"{former}/heard"):
                    self._store.delete_key(key)
            return value

    def _await_decision(self, name: str) -> bytes:
        deadline = time.monotonic() + self._timeout.total_seconds()
        try:
            self._store.wait([f"{name}/decision"], self._timeout)
        except RuntimeError as error:  # a DistStoreError, but of a FileStore
            if time.monotonic() < deadline - 1.0 or is_unanswered(error):
                raise  # the store is gone, which is not a late peer
            return self._decide(name)
        return self._read(f"{name}/decision")

    def _decide(self, name: str) -> bytes:
        """Decides by who has come, unless that was decided already; returns what stands.

        A rank that has brought its payload is in the meeting, counted or not.
        """
        came = self._entries(f"{name}/came")
        if len(came) == self._num_ranks:
            payloads = [came[rank].payload for rank in range(self._num_ranks)]
            return self._compare_set(f"{name}/decision", b"", _GO + join(payloads))
        seconds = self._timeout.total_seconds()
        given_up = GivenUp.of(came, self._num_ranks, self._heard_of(name), seconds)
        return self._compare_set(f"{name}/decision", b"", _NO + words.encode(given_up))

    def _heard_of(self, name: str) -> set[int]:
        """Ranks that lived after a call had failed since the last meeting; none where none has."""
        heard = set(self._entries(f"{self._last_met}/failed"))
        for attempt in range(self._last_met + 1, int(name)) if heard else ():
            heard.update(self._entries(f"{attempt}/came"))
        return heard

    def _entries(self, key: str) -> dict[int, Entry]:
        brought = self._read(key)
        return {} if brought == _NOTHING else entries(brought, self._num_ranks)

    def _forget(self) -> None:
        """Deletes the keys of attempts that all ranks are past; they are rank 0's to delete."""
        attempts = range(self._forgotten, self._last_met if self._rank == 0 else self._forgotten)
        with suppress(Exception):  # who cannot clean up has come all the same
            for earlier in attempts:
                for key in ("came", "count", "decision"):
                    self._store.delete_key(f"{earlier}/{key}")
                if self._store.delete_key(f"{earlier}/failed"):  # on whichever rank
                    self._store.delete_key(f"{earlier}/told")
                    self._store.delete_key(f"{earlier}/silent")
        self._forgotten = self._last_met

    def _read(self, key: str) -> bytes:
        """What stands under a key, or ``_NOTHING``; ``get`` would take two messages."""
        return self._compare_set(key, _NOTHING, _NOTHING)

    def _compare_set(self, key: str, expected: bytes, desired: bytes) -> bytes:
        return bytes(self._store.compare_set(key, expected, desired))  # type: ignore[arg-type]

    def _append(self, key: str, part: bytes) -> None:
        """Puts ``part`` behind what stands under ``key``; a file has no call for it."""
        if self._store.has_extended_api():  # type: ignore[attr-defined]
            self._store.append(key, part)  # type: ignore[attr-defined]
            return
        found = b""
        while (now := self._compare_set(key, found, found + part)) != found + part:
            found = now


class _Watch:
    """Whether connections have been lost for too long."""

    def __init__(self, num_lost: Callable[[], int], seconds: float) -> None:
        self.num_lost = 0  #: when last asked
        self._ask = num_lost
        self._seconds = seconds
        self._next = 0.0
        self._until: float | None = None

    def is_over(self) -> bool:
        """Whether connections are lost, and were so all the time; asks once a second."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + min(_IDLE_WATCH_SECONDS, self._seconds)
        self.num_lost = self._ask()
        if not self.num_lost:
            self._until = None
            return False
        self._until = self._until or now + self._seconds
        return now > self._until
