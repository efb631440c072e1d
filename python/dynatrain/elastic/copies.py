"""Copies of a member's state in host memory: its own, and that of the member it is a partner of."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from dynatrain import _native, words
from dynatrain._errors import BudgetError, TransportError
from dynatrain.adapters.port import Adapter, SlotNote
from dynatrain.generation.held import Held
from dynatrain.switch.encoded import SHARED, encoded, with_another
from dynatrain.switch.present import Present

#: The share of the memory that is left which copies may take: what is full ends processes.
_MOST_OF_LEFT = 0.9


@words.record
@dataclass(frozen=True)
class CopiedState:
    """What is told of a copied state, to the partner that keeps it too.

    Attributes:
        epoch: of the world that it was copied in.
        layout: of that world.
        version: completed steps.
        member: id of the member whose it is.
        size_bytes: of its run.
        blob: what lies in the run.
        parts: see :class:`dynatrain.generation.held.Held`; so all that follow.
        parts_apart: see there.
        copies: see there.
        notes: see there.
        on_host: see there.
    """

    epoch: int
    layout: str
    version: int
    member: str
    size_bytes: int
    blob: bytes
    parts: Mapping[str, bytes]
    parts_apart: Mapping[str, bytes] | None
    copies: Mapping[str, tuple[tuple[str, str], ...]]
    notes: frozenset[SlotNote]
    on_host: frozenset[str]

    @staticmethod
    def of_parts(member: str, on_host: frozenset[str]) -> CopiedState:
        """Of tensors alone, which are of no world; without a version or a run."""
        return CopiedState(0, "", -1, member, 0, b"", {}, None, {}, frozenset(), on_host)


@dataclass
class Snapshot:
    """One version of a member's state and of another one's, in one buffer of host memory.

    Attributes:
        run: the buffer; None before its first use.
        own: what lies at its begin; None while it is being written.
        other: what lies behind that; None where nothing of another member is whole here.
        sums: of the two, as they were copied and as they came.
        own_kept: state of kept objects that belong to this rank, encoded.
        is_of_parts: it is what a switch has left that failed, until a world stands again.
    """

    run: _native.HostRun | None = None
    own: CopiedState | None = None
    other: CopiedState | None = None
    sums: list[int] = field(default_factory=lambda: [0, 0])
    own_kept: dict[str, bytes] = field(default_factory=dict)
    is_of_parts: bool = False

    @property
    def version(self) -> int | None:
        """Completed steps of what is here; None where nothing is."""
        return None if self.own is None else self.own.version

    def forget(self) -> None:
        """Lets go of what is here; the memory stays for the next one."""
        self.own = self.other = None
        self.own_kept, self.is_of_parts = {}, False

    def make_room(self, size_bytes: int, device: torch.device, num_takers: int = 1) -> None:
        """Has the buffer be as long, keeping what lies at its begin.

        ``num_takers`` processes of this host do the same now.

        Raises:
            BudgetError: this host has no memory for it.
        """
        before = self.run
        if before is not None and before.size_bytes >= size_bytes:
            return
        left = _native.available_host_bytes() // num_takers
        if size_bytes > left * _MOST_OF_LEFT:
            raise _no_room(size_bytes, f"{left} bytes are left on this host")
        try:
            run = _native.HostRun(size_bytes)
        except MemoryError as error:
            raise _no_room(size_bytes, "the system refuses it") from error
        if device.type == "cuda":
            pin(run)
        if before is not None and self.own is not None:
            size = self.own.size_bytes
            bytes_of(run)[:size].copy_(bytes_of(before)[:size])
        self.run = run

    def held(
        self,
        device: torch.device,
        is_alive: Collection[str],
        more: tuple[CopiedState, _native.HostRun] | None = None,
    ) -> Held:
        """What this rank holds of the version, as the source of a switch.

        Of another member that is in ``is_alive`` nothing is told: it brings its own. ``more`` is
        what this rank has besides.

        Raises:
            TransportError: the own copy is not what it was.
            BudgetError: this host has no memory for all of it together.
        """
        if self.own is None:
            assert more is not None
            return _held([(more[0], 0)], more[1], device)
        assert self.run is not None
        states, begin = [], 0
        for number, state in enumerate((self.own, self.other)):
            if state is None or (number and state.member in is_alive):
                continue
            if self.run.sum(begin, begin + state.size_bytes) != self.sums[number]:
                raise _spoilt(state)
            states.append((state, begin))
            begin += state.size_bytes
        if more is None:
            return _held(states, self.run, device)
        joined = Snapshot(self.run, replace(self.own, size_bytes=begin))
        joined.make_room(begin + more[0].size_bytes, device)
        assert joined.run is not None
        bytes_of(joined.run)[begin : begin + more[0].size_bytes].copy_(bytes_of(more[1]))
        return _held([*states, (more[0], begin)], joined.run, device)


class SnapshotSlots:
    """Room for two versions: the one that is whole everywhere, and the next one."""

    def __init__(self) -> None:
        self._both = (Snapshot(), Snapshot())
        self._next = 0

    @property
    def spare(self) -> Snapshot:
        """Where the next copies go; what is whole everywhere lies in the other one, if any is."""
        return self._both[self._next]

    def is_whole(self) -> None:
        """All members have what lies in the spare one, and their keepers: it is none any more."""
        self._next = 1 - self._next

    def without_spare(self) -> SnapshotSlots:
        """Others with what is whole alone, where a thread may still write the spare one of these.

        It writes nothing of what was whole before: that thread begins no round any more.
        """
        others, whole = SnapshotSlots(), self.whole
        others._both = (Snapshot(), replace(whole, sums=[*whole.sums]))
        return others

    @property
    def whole(self) -> Snapshot:
        """What is whole everywhere, if anything is."""
        return self._both[1 - self._next]

    def forget_parts(self, *, with_memory: bool) -> None:
        """Forgets what switches have left that failed; ``with_memory``: that goes as well."""
        for each in self._both:
            if each.is_of_parts:
                each.forget()
                each.run = None if with_memory else each.run

    @property
    def versions(self) -> list[int]:
        """What there are copies of, newest first."""
        found = {each.version for each in self._both if each.version is not None}
        return sorted(found, reverse=True)

    def of(self, version: int) -> Snapshot | None:
        """The copies of a version; of two, those that are of another member, too."""
        found = [each for each in self._both if each.version == version]
        return max(found, key=lambda each: each.other is not None, default=None)

    def follow(self, version: int) -> None:
        """Forgets what lies behind a version, which is where the job goes on."""
        for each in self._both:
            if each.version is not None and each.version > version:
                each.forget()
        if self._both[1 - self._next].own is None and self.spare.own is not None:
            self._next = 1 - self._next


def _held(
    states: list[tuple[CopiedState, int]], run: _native.HostRun, device: torch.device
) -> Held:
    on_host = frozenset[str]().union(*(each.on_host for each, _ in states))
    shares = [(each.blob, begin) for each, begin in states]
    memory: Any = run
    if device.type == "cpu":
        table = _native.packed_table(shares, run)
    else:  # no lane goes from host memory to a device: what lay there goes back first
        memory = run, bytes_of(run).to(device)
        table = _native.packed_table(shares, run, memory[1].data_ptr(), sorted(on_host))
    own, *others = (each for each, _ in states)
    parts, apart, copies = own.parts, own.parts_apart, dict(own.copies)
    for other in others:
        if apart is not None or other.parts_apart is not None:
            apart = with_another(apart or parts, other.parts_apart or other.parts)
        parts = with_another(parts, other.parts)
        for fqn, pairs in other.copies.items():
            copies[fqn] = tuple(sorted({*copies.get(fqn, ()), *pairs}))
    notes = frozenset[SlotNote]().union(*(each.notes for each, _ in states))
    return Held(table, parts, apart, copies, notes, on_host, memory)


class StateReader:
    """Reads the state of this rank for a copy of it.

    Args:
        adapter: of the state's framework.
        present: what the rank is now.
    """

    def __init__(self, adapter: Adapter[Any], present: Present) -> None:
        self._adapter = adapter
        self._now = present
        self._known: tuple[_native.StateTable, _native.PackedState] | None = None

    def packed(self) -> tuple[Any, _native.PackedState]:
        """The inventory of the state, and its tensors as one run; not while a step runs."""
        now = self._now
        assert now.state is not None
        assert now.world is not None
        inventory = self._adapter.inventory(now.state)
        table = inventory.table()
        if self._known is None or self._known[0] is not table:
            self._known = table, _native.PackedState(table, now.world.rank)
        return inventory, self._known[1]

    def told(self, inventory: Any, version: int, member: str) -> CopiedState:
        """What is to be told of a copy of the state that ``inventory`` has read, but for a run."""
        adapter, now = self._adapter, self._now
        assert now.state is not None
        kept = now.states_of_kept(per_rank=False)
        ties = adapter.ties(now.state)
        copies = {fqn: tuple(inventory.under([fqn])[1]) for fqn in ties}
        apart = None
        if ties:
            apart = encoded(adapter, adapter.values(inventory.under(ties)[0]), kept)
        return CopiedState(
            now.epoch,
            str(now.layout),
            version,
            member,
            0,
            b"",
            encoded(adapter, adapter.values(inventory), kept),
            apart,
            copies,
            inventory.slot_notes(),
            frozenset(inventory.host_names()),
        )

    def own_kept(self) -> dict[str, bytes]:
        """State of kept objects that belong to this rank, encoded."""
        states = self._now.states_of_kept(per_rank=True)
        return {
            name: self._adapter.encode(f"{SHARED}{name}", state) for name, state in states.items()
        }

    def forget(self) -> None:
        """Lets go of what it remembers of a state that was replaced."""
        self._known = None


def bytes_of(run: _native.HostRun) -> torch.Tensor:
    """The memory of a run; it lives as long as either."""
    if not run.size_bytes:
        return torch.empty(0, dtype=torch.uint8, device="cpu")  # torch takes no buffer of nothing
    return torch.frombuffer(run, dtype=torch.uint8)


def pin(run: _native.HostRun) -> None:
    """Has a device copy into it; where CUDA refuses that, the copy raises."""
    address = bytes_of(run).data_ptr()
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    runtime.cudaHostRegister(address, run.size_bytes, 0)
    weakref.finalize(run, runtime.cudaHostUnregister, address)


def _no_room(size_bytes: int, why: str) -> BudgetError:
    return BudgetError(
        f"snapshot: no memory for copies of {size_bytes} bytes\n"
        f"  {why}\n"
        "  nothing was copied; training goes on, and the older snapshot stands\n"
        "  leave twice the state of each member, and of its partner, free on every host"
    )


def _spoilt(state: CopiedState) -> TransportError:
    return TransportError(
        f"snapshot: the copy of member {state.member} after {state.version} steps has another sum "
        "than when it was made\n"
        "  expected memory to keep what is written there\n"
        "  nothing was moved; it is not used\n  check the memory of this host"
    )
