"""The rounds in which copies go to their keepers, and to disk, in a thread beside training."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta

import torch
from torch._C._distributed_c10d import PrefixStore, Store

from dynatrain import _native, by_rank
from dynatrain._errors import BudgetError
from dynatrain._threads import Beside
from dynatrain.elastic.boundaries import LATE, SLOW, Boundaries, EndedError
from dynatrain.elastic.cadence import Cadence
from dynatrain.elastic.copies import Snapshot, SnapshotSlots, bytes_of
from dynatrain.elastic.partners import Agreed, Brought, Channel, Done, Said
from dynatrain.elastic.saving import Saving, Together, why_of
from dynatrain.generation.connections import Connections
from dynatrain.generation.late import outlives
from dynatrain.generation.leftovers import Leftovers
from dynatrain.generation.members import Members
from dynatrain.given import described
from dynatrain.layout import Layout

_log = logging.getLogger("dynatrain.elastic")
#: The part of ``timeout_s`` that the thread of a world that has ended may take to let go of its
#: buffers. The training thread waits for it before it reports of a halted world; a member whose
#: report does not come within a sixth is taken for lost.
_ENDING = 1 / 12
#: The key of the try that members are in, whose name is its value.
_TRY = "try"
#: How far ahead the next copy is at most set, in steps, where boundaries were missed.
_MOST_AHEAD = 64
#: Why a member has copied nothing, where the next round may do better at once.
GROWN = "the state has grown since there was room made for it"
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
        layout: of it.
    """

    epoch: int = 0
    version: int = 0
    layout: Layout = field(default_factory=Layout)


class Rounds(Beside):
    """The thread beside training in one world: a round takes copies to their keepers, and to disk.

    All members do the same rounds. When one ends, all agree at which boundary the next copies are
    made: one that none of them had come to when it spoke. A member that has passed it all the same
    says so, and the round is given up. Where one of them cannot go on they meet anew, in a try of
    another name, until they can.

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
        super().__init__("dynatrain snapshots", self._do_all)
        self._cadence = cadence
        self._epoch, self._layout = begins.epoch, begins.layout
        self._begun = begins.version
        self._done = Done(tried=begins.version)
        self.saved: list[int] = []  #: versions that have come to disk in this world
        self._slots = slots
        self._means = means
        self._members = members
        self._connections = Connections(means.timeout)  #: of this try
        self._try = ""
        self._meeting: Store | None = None  #: that this try is known in
        self._former: set[str] = set()  #: tries that this member has left
        self.boundaries = Boundaries(means.timeout.total_seconds())
        self._holds = True  #: buffers or files, so that its end is to be waited for
        self._margin = 1
        self._no_room = ""  #: why the next copy has none
        self._is_swept = self._is_told = self._is_stopped = False

    # ---- of the training thread ----------------------------------------------------------------

    def end(self) -> bool:
        """Ends the thread; whether it has let go of the buffers, which is waited for."""
        with self.boundaries.changed:
            self.boundaries.ended = True
            holds, connections = self._holds, self._connections
            self.boundaries.wake()
        connections.cut("the snapshots of this world have ended")
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

    def _do_all(self) -> None:
        """Does rounds until the world ends; meets the others anew where one does not answer."""
        with suppress(EndedError):
            while True:
                try:
                    self._do_rounds()
                except EndedError:
                    raise
                except Exception as error:  # noqa: BLE001 - training goes on without snapshots
                    self._tell_of_stop(error)
                self._leave_try()

    def _leave_try(self) -> None:
        """Has nobody join this try any more, and waits a moment and for what is under way."""
        with self._connecting():
            self._connections.cut("a member has begun the snapshots anew")
            with suppress(Exception):  # a store that is gone tells nobody of this try either
                if self._meeting is not None:
                    self._move_on(self._meeting)
            self.boundaries.wait(lambda: False, self.boundaries.patience_s)
            self.boundaries.begin_anew()
        self._former.add(self._try)
        self._margin = 1  # as on all others

    def _move_on(self, store: Store) -> None:
        """Ends the try that this member was in last, unless somebody has: another one follows."""
        store.compare_set(_TRY, self._try or "none", secrets.token_hex(8))

    def _tell_of_stop(self, error: Exception) -> None:
        if self.boundaries.ended:
            return
        level = logging.DEBUG if self._is_stopped else logging.WARNING
        self._is_stopped = True
        _log.log(
            level,
            "no snapshots for now; they begin anew once all members can, %g s from now at the "
            "earliest, and the older one stands: %s",
            self.boundaries.patience_s,
            described(error),
        )

    @contextmanager
    def _connecting(self) -> Iterator[None]:
        """Nothing is touched in here, so that nobody waits for it.

        A member that has died meanwhile is waited for up to the deadline: no connection stands yet
        that could be cut.

        Raises:
            EndedError: the world has ended meanwhile.
        """
        with self.boundaries.changed:
            self.boundaries.check()
            self._holds = False
        yield
        with self.boundaries.changed:
            self.boundaries.check()
            self._holds = True

    def _do_rounds(self) -> None:
        with self._connecting():
            members = self._of_try()
        self._sweep_once(members.rank)
        keeps = self._cadence.snapshot_every is not None and members.num_ranks > 1
        with self._connecting():
            channel = Channel(members, self._means.timeout, self._layout, keeps=keeps)
            self._clean_up(members.rank)
        self.boundaries.wait(lambda: self.boundaries.size is not None, self.boundaries.patience_s)
        size = self.boundaries.size or 0
        other = channel.swap(Brought(None, 0, size, "begins"), None, lambda _: None)
        agreed = channel.agree(Said(self.boundaries.at, done=self._done, last=self.boundaries.last))
        self._catch_up(agreed.done, keeps=keeps)
        self._room(self._slots.spare, size + other.size_bytes)
        at, every = agreed.at, self._cadence.every
        due = self._cadence.first(at + self._margin)
        while True:
            due = self._cadence.not_beyond(due, at, agreed.last, self._done.tried)
            slot, brought = self._slots.spare, self.boundaries.brought_at(due)
            began = time.perf_counter()
            agreed, other = self._round(channel, slot, brought)
            at = agreed.at
            if agreed.why:
                self._tell_of_failure(due, agreed)
                if any(why == LATE for _, why in agreed.why):  # all copy at one boundary
                    self._margin = min(self._margin * 2, _MOST_AHEAD)
                due = at + self._margin if agreed.soon else self._cadence.not_before(at + every)
            else:
                self._is_whole(due, keeps=keeps)
                if keeps:
                    self._tell_of_success(slot, time.perf_counter() - began)
                if self._cadence.is_checkpoint(due, self._done.tried):
                    at = max(at, self._save(channel, members, slot))
                    self._done = replace(self._done, tried=due)
                due = self._cadence.following(due, at + self._margin)
            self._room(self._slots.spare, brought.size_bytes + other.size_bytes)

    def _of_try(self) -> Members:
        """The members, under the name of the try that all of them join: none is made of twice.

        The store has it. A coordinator that has come meanwhile has another store, and so other
        names.
        """
        with self.boundaries.changed:
            self.boundaries.check()
            self._connections = connections = Connections(self._means.timeout)
        members = self._members(connections)
        self._meeting = store = members.store
        self._move_on(store)
        self._try = store.compare_set(_TRY, "", secrets.token_hex(8)).decode()
        own = PrefixStore(self._try, store)
        return replace(members, name=f"{members.name}/{self._try}", store=own)

    def _clean_up(self, rank: int) -> None:
        """Deletes what former tries have left in the store; all members have left them."""
        former, self._former, store = self._former, set(), self._meeting
        if rank != 0 or store is None or not former:
            return
        leftovers = Leftovers()
        with suppress(Exception):  # who cannot clean up goes on all the same
            keys = store.list_keys()  # once, however many tries there were
            leftovers.add_keys(store, [key for key in keys if key.partition("/")[0] in former])
        leftovers.sweep(lambda: self.boundaries.ended)

    def _sweep_once(self, rank: int) -> None:
        """Deletes checkpoints of steps that were undone, as the world begins."""
        folder, is_swept, self._is_swept = self._cadence.folder, self._is_swept, True
        if folder is not None and rank == 0 and not is_swept:
            folder.sweep(self._begun)

    def _catch_up(self, done: Done, *, keeps: bool) -> None:
        """Takes note of what others have heard at the end of the try before, and this one has not.

        It took part in it: what has become whole or was saved is so here, too.
        """
        if done.whole > self._done.whole and self._slots.spare.version == done.whole:
            self._is_whole(done.whole, keeps=keeps)
        if done.saved > self._done.saved:
            self._is_saved(done.saved)
        self._done = done

    def _is_whole(self, version: int, *, keeps: bool) -> None:
        self._slots.is_whole()
        self._done, self._is_stopped = replace(self._done, whole=version), False
        if keeps:
            self._means.copied(self._epoch, False)

    def _is_saved(self, version: int) -> None:
        self._done = replace(self._done, saved=version)
        self.saved.append(version)
        self._means.copied(self._epoch, True)

    def _save(self, channel: Channel, members: Members, slot: Snapshot) -> int:
        """Takes copies to disk; the furthest boundary that a member has come to meanwhile."""
        folder, began = self._cadence.folder, time.perf_counter()
        assert folder is not None
        assert slot.own is not None
        seconds = self._means.timeout.total_seconds()
        name = members.name.replace("/", "-")
        wait, at = (self.boundaries.wait, self.boundaries.wake), lambda: self.boundaries.at
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
        self._is_saved(version)
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
        at, last = self.boundaries.at, self.boundaries.last
        return channel.agree(Said(at, problem, problem in (GROWN, LATE, SLOW), last=last)), other

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
        """``seconds``: since its copy had been made."""
        assert slot.own is not None
        size, seconds = slot.own.size_bytes, seconds + self.boundaries.blocked_s
        blocked_ms = self.boundaries.blocked_s * 1e3
        self._means.note(
            "snapshot",
            f"after {slot.own.version} steps: {size} bytes, {blocked_ms:.1f} ms of the training "
            f"thread, whole after {seconds:.2f} s",
        )


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
