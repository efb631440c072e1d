"""The rounds in which copies go to their keepers, and to disk, in a thread beside training."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch

from dynatrain import _native, by_rank
from dynatrain._errors import BudgetError
from dynatrain.elastic.cadence import Cadence
from dynatrain.elastic.copies import Snapshot, SnapshotSlots, bytes_of
from dynatrain.elastic.partners import Agreed, Brought, Channel, Said
from dynatrain.elastic.saving import Saving, Together, why_of
from dynatrain.generation.connections import Connections
from dynatrain.generation.late import outlives
from dynatrain.generation.members import Members
from dynatrain.given import described

_log = logging.getLogger("dynatrain.elastic")
#: The part of ``timeout_s`` that the thread of a world that has ended may take to let go of its
#: buffers. The training thread waits for it before it reports of a halted world; a member whose
#: report does not come within a sixth is taken for lost.
_ENDING = 1 / 12
#: How far ahead the next copy is at most set, in steps, where boundaries were missed.
_MOST_AHEAD = 64
#: Why a member has copied nothing, where the next round may do better at once.
GROWN = "the state has grown since there was room made for it"
LATE = "its training was beyond that boundary when it came to know of it"
SLOW = "its training has not come to a boundary for a third of timeout_s"
#: Takes note of an event, by its kind and in words, in any thread.
Note = Callable[[str, str], None]


@dataclass(frozen=True)
class Means:
    """What snapshots are made with.

    Attributes:
        device: where parameters live.
        num_threads: that copy host memory.
        timeout: deadline of every wait for another member.
        after: what the script has put on its stream so far; empty on the CPU.
        note: of events.
        copied: is told the epoch of a world of which a snapshot is whole, or, with True, a
            checkpoint; in any thread.
    """

    device: torch.device
    num_threads: int
    timeout: timedelta
    after: Callable[[], Sequence[_native.Token]]
    note: Note
    copied: Callable[[int, bool], None]


@dataclass(frozen=True)
class Begins:
    """How a world begins.

    Attributes:
        epoch: of it, as the coordinator counts.
        version: completed steps.
    """

    epoch: int = 0
    version: int = 0


class Rounds(threading.Thread):
    """The thread beside training in one world: a round takes copies to their keepers, and to disk.

    All members do the same rounds. When one ends, all agree at which boundary the next copies are
    made: one that none of them had come to when it spoke. A member that has passed it all the same
    says so, and the round is given up.

    Args:
        cadence: see there.
        slots: where copies are.
        means: see there.
        members: of the world; called in the thread.
        begins: how the world does.
    """

    def __init__(
        self,
        cadence: Cadence,
        slots: SnapshotSlots,
        means: Means,
        members: Callable[[Connections], Members],
        begins: Begins,
    ) -> None:
        super().__init__(name="dynatrain snapshots", daemon=True)
        self._cadence = cadence
        self._epoch = begins.epoch
        self._begun = self._written = begins.version
        self.saved: list[int] = []  #: versions that have come to disk in this world
        self._slots = slots
        self._means = means
        self._members = members
        self._connections = Connections(means.timeout)
        #: For one step; it may be over twice before this member says so, and others outwait that.
        self._patience_s = means.timeout.total_seconds() / 3
        self._changed = threading.Condition()
        self._size: int | None = None
        self._at = 0
        self._due: int | None = None
        self._brought: Brought | None = None
        self._blocked_s = 0.0
        self._ended = False
        self._holds = True  #: buffers or files, so that its end is to be waited for
        self._margin = 1
        self._no_room = ""  #: why the next copy has none
        self._is_told = False

    # ---- of the training thread ----------------------------------------------------------------

    def wanted_at(self, version: int) -> str:
        """What is wanted at a boundary: ``size``, ``copy`` or nothing."""
        with self._changed:
            self._at = version
            if self._size is None:
                return "size"
            if self._due == version:
                self._due = None
                return "copy"
            return ""

    def measured(self, size_bytes: int) -> None:
        """So long is the state."""
        with self._changed:
            self._size = size_bytes
            self._changed.notify_all()

    def bring(self, brought: Brought, seconds: float) -> None:
        """The state is copied, or is not; that has blocked the training for so long."""
        with self._changed:
            self._brought, self._blocked_s = brought, seconds
            self._changed.notify_all()

    def end(self) -> bool:
        """Ends the thread; whether it has let go of the buffers, which is waited for."""
        with self._changed:
            self._ended = True
            holds = self._holds
            self._changed.notify_all()
        self._connections.cut("the snapshots of this world have ended")
        if not holds:
            outlives(self, self._means.timeout.total_seconds())
            return True
        seconds = self._means.timeout.total_seconds() * _ENDING
        self.join(seconds)
        if self.is_alive():
            _log.warning(
                "the thread of the snapshots has not ended within %g s: the copies that it may "
                "still write are given up, with their memory; the older ones stand",
                seconds,
            )
        return not self.is_alive()

    # ---- of its own ----------------------------------------------------------------------------

    def run(self) -> None:
        """Does rounds until the world ends, or a member does not answer."""
        try:
            self._do_rounds()
        except _EndedError:
            pass
        except Exception as error:  # noqa: BLE001 - training goes on without snapshots
            if not self._ended:
                _log.warning(
                    "no further snapshots in this world; the older one stands: %s",
                    described(error),
                )

    @contextmanager
    def _connecting(self) -> Iterator[None]:
        """Nothing is touched in here, so that nobody waits for it.

        A member that has died meanwhile is waited for up to the deadline: no connection stands yet
        that could be cut.

        Raises:
            _EndedError: the world has ended meanwhile.
        """
        with self._changed:
            self._holds = False
        yield
        with self._changed:
            if self._ended:
                raise _EndedError
            self._holds = True

    def _do_rounds(self) -> None:
        with self._connecting():
            members = self._members(self._connections)
        if (folder := self._cadence.folder) is not None and members.rank == 0:
            folder.sweep(self._begun)
        keeps = self._cadence.snapshot_every is not None and members.num_ranks > 1
        with self._connecting():
            channel = Channel(members, self._means.timeout, keeps=keeps)
        self._await(lambda: self._size is not None, self._patience_s)
        slot, size = self._slots.spare, self._size or 0
        other = channel.swap(Brought(None, 0, size, "begins"), None, lambda _: None)
        self._room(slot, size + other.size_bytes)
        at = channel.agree(Said(self._at)).at
        due, every = self._cadence.first(at + self._margin), self._cadence.every
        while True:
            slot, began = self._slots.spare, time.perf_counter()
            brought = self._brought_at(due)
            agreed, other = self._round(channel, slot, brought)
            at = agreed.at
            if agreed.why:
                self._tell_of_failure(due, agreed)
                if any(why == LATE for _, why in agreed.why):  # all copy at one boundary
                    self._margin = min(self._margin * 2, _MOST_AHEAD)
                due = at + self._margin if agreed.soon else self._cadence.not_before(at + every)
            else:
                self._slots.is_whole()
                if keeps:
                    self._means.copied(self._epoch, False)
                    self._tell_of_success(slot, time.perf_counter() - began)
                if self._cadence.is_checkpoint(due, self._written):
                    at = max(at, self._save(channel, members, slot))
                    self._written = due
                due = self._cadence.following(due, at + self._margin)
            self._room(self._slots.spare, brought.size_bytes + other.size_bytes)

    def _save(self, channel: Channel, members: Members, slot: Snapshot) -> int:
        """Takes copies to disk; the furthest boundary that a member has come to meanwhile."""
        folder, began = self._cadence.folder, time.perf_counter()
        assert folder is not None
        assert slot.own is not None
        seconds = self._means.timeout.total_seconds()
        name = members.name.replace("/", "-")
        wait, at = (self._await, self._wake), lambda: self._at
        means = Together(folder, members.rank, name, channel.exchange, *wait, at, seconds)
        verdict = Saving(means).save(slot)
        version = slot.own.version
        if verdict.why:
            _log.warning(
                "the checkpoint after %d steps is given up, older ones stand\n%s",
                version,
                why_of(verdict),
            )
            return verdict.at
        self.saved.append(version)
        self._means.copied(self._epoch, True)
        self._means.note(
            "checkpoint",
            f"after {version} steps: {folder.of(version)}, {slot.own.size_bytes} bytes of this "
            f"member's, whole after {time.perf_counter() - began:.2f} s",
        )
        return verdict.at

    def _round(self, channel: Channel, slot: Snapshot, brought: Brought) -> tuple[Agreed, Brought]:
        """Swaps copies; what all say of it, and what the other has brought."""
        problem, own = brought.why, None
        if problem == GROWN:
            problem = self._no_room or problem
        if brought.state is not None:
            assert slot.run is not None
            size = brought.state.size_bytes
            slot.sums[0] = slot.run.sum(0, size)
            brought = replace(brought, sum=slot.sums[0])

        def room_for(other: Brought) -> torch.Tensor | None:
            nonlocal problem
            if brought.state is None or other.state is None:
                return None
            begin, size = brought.state.size_bytes, other.state.size_bytes
            problem = problem or self._room(slot, begin + size)
            if problem:
                return None
            assert slot.run is not None
            return bytes_of(slot.run)[begin : begin + size]

        if brought.state is not None:
            assert slot.run is not None
            own = bytes_of(slot.run)[: brought.state.size_bytes]
        other = channel.swap(brought, own, room_for)
        if brought.state is not None and other.state is not None and not problem:
            problem = _took(slot, other)
        at = self._at
        is_soon = problem in (GROWN, LATE, SLOW)
        return channel.agree(Said(at, problem, is_soon)), other

    def _brought_at(self, due: int) -> Brought:
        """What the training thread has copied at a boundary; nothing where it has passed it.

        Nor where one of its steps does not end. Once it has begun to copy, that is waited for: the
        slot is being written. A copy has a deadline of its own.
        """
        with self._changed:
            if self._at >= due:
                return Brought(None, 0, self._size or 0, LATE)
            self._due = due
        at = -1
        while self._lacks(due):
            if self._is_given_up(due, at):
                return Brought(None, 0, self._size or 0, SLOW)
            at = self._at
            self._await(lambda: not self._lacks(due), self._patience_s)
        self._await(lambda: self._brought is not None, 2 * self._means.timeout.total_seconds())
        brought, self._brought = self._brought, None
        if brought is None:
            raise TimeoutError("a copy that was begun has not ended")
        self._size = brought.size_bytes or self._size
        return brought

    def _lacks(self, due: int) -> bool:
        """Whether the copy at a boundary has not begun."""
        return self._due == due

    def _is_given_up(self, due: int, at: int) -> bool:
        """Whether training still stands where it stood, or went by; then nothing is copied."""
        with self._changed:
            is_over = self._lacks(due) and (self._at == at or self._at > due)
            if is_over:
                self._due = None
            return is_over

    def _await(self, is_there: Callable[[], bool], seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: is_there() or self._ended, seconds)
            if self._ended:
                raise _EndedError

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _room(self, slot: Snapshot, size_bytes: int) -> str:
        """Makes room; why there is none, or nothing."""
        try:
            slot.make_room(size_bytes, self._means.device)
        except BudgetError as error:
            self._no_room = str(error)
        else:
            self._no_room = ""
        return self._no_room

    def _tell_of_failure(self, due: int, agreed: Agreed) -> None:
        lines = by_rank.lines(dict(agreed.why))
        if agreed.soon or self._is_told:
            _log.debug("the snapshot after %d steps is given up\n%s", due, lines)
            return
        self._is_told = True
        _log.warning("the snapshot after %d steps is given up, an older one stands\n%s", due, lines)

    def _tell_of_success(self, slot: Snapshot, seconds: float) -> None:
        assert slot.own is not None
        size = slot.own.size_bytes
        blocked_ms = self._blocked_s * 1e3
        self._means.note(
            "snapshot",
            f"after {slot.own.version} steps: {size} bytes, {blocked_ms:.1f} ms of the training "
            f"thread, whole after {seconds:.2f} s",
        )


class _EndedError(Exception):
    """The world of the rounds has ended."""


def _took(slot: Snapshot, other: Brought) -> str:
    """Holds what has come against its sum; what is wrong with it, or nothing."""
    assert other.state is not None
    assert slot.own is not None
    assert slot.run is not None
    begin = slot.own.size_bytes
    found = slot.run.sum(begin, begin + other.state.size_bytes)
    if found != other.sum:
        return f"what has come of member {other.state.member} has another sum than it had there"
    if other.state.version != slot.own.version:
        return f"member {other.state.member} has copied its state after other steps"
    slot.sums[1], slot.other = other.sum, other.state
    return ""
