"""What one rank switches with: its generation, and what the native core does for it.

A phase that fails on one rank fails on all: that is what :meth:`Engine.together` is for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from dynatrain import _native
from dynatrain.adapters.port import Adapter, Inventory, SlotNote
from dynatrain.generation.control import (
    Control,
    Publication,
    attempt,
    holders,
    listing,
)
from dynatrain.generation.generation import Generation
from dynatrain.generation.held import Held, Source
from dynatrain.generation.lanes import Lane
from dynatrain.generation.options import Options
from dynatrain.generation.seats import Seats
from dynatrain.train_state import TrainState

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Side:
    """A state as the planner sees it.

    Attributes:
        inventory: of a live state; None on an idle rank.
        table: its tensors.
        held: what a rank without a live state holds of one; then there is no inventory.
    """

    inventory: Inventory | None
    table: _native.StateTable
    held: Held | None = None

    @staticmethod
    def of(inventory: Inventory | None) -> Side:
        """The side that was read; an idle rank has no tensors."""
        return Side(inventory, _native.StateTable() if inventory is None else inventory.table())

    @staticmethod
    def of_held(held: Held) -> Side:
        """The side of a rank that has no live state, but holds some of one."""
        return Side(None, held.table, held)

    def under(self, apart: Collection[str]) -> Side:
        """The same with every name that ``apart`` makes of what it ties; nothing is read anew."""
        if self.held is not None:
            return Side.of_held(self.held.under(apart))
        if self.inventory is None:
            return self
        inventory, names = self.inventory.under(apart)
        return Side(inventory, self.table.with_names(names)) if names else self

    def slot_notes(self) -> frozenset[SlotNote]:
        """What a rank that makes the slots must know of them; none of an idle rank."""
        if self.held is not None:
            return self.held.notes
        return frozenset() if self.inventory is None else self.inventory.slot_notes()

    def host_names(self) -> frozenset[str]:
        """Names of tensors that lie in host memory, or lay there."""
        if self.held is not None:
            return self.held.on_host
        return frozenset() if self.inventory is None else frozenset(self.inventory.host_names())

    @property
    def state(self) -> TrainState | None:
        """The state that was read."""
        return None if self.inventory is None else self.inventory.state


class AtBoundary(Protocol):
    """Runs in the training thread, between two of its steps, what touches its state or torch."""

    def __call__(self, work: Callable[[], _T], /) -> _T:
        """What ``work`` returns; what it raises is raised."""


def at_once(work: Callable[[], _T], /) -> _T:
    """Runs ``work`` where it is called: the training thread stands in a call anyway."""
    return work()


class Engine:
    """What a switch asks of a generation and of the native core, for one rank.

    Args:
        generation: the ranks, and what they talk over.
        device: where parameters live.
        adapter: of the state's framework.
        at_boundary: where the adapter, and what makes meshes, are called; see the adapter's port.
            No exchange is made there.
        worlds_number_ranks: whether meshes have the places of their world for numbers, not the
            ranks of the job.

    Attributes:
        generation: as given, or the one that has taken its place.
        adapter: as given.
        at_boundary: as given.
    """

    def __init__(
        self,
        generation: Generation,
        device: torch.device,
        adapter: Adapter[Any],
        at_boundary: AtBoundary = at_once,
        worlds_number_ranks: bool = False,
    ) -> None:
        self.generation = generation
        self._worlds_number_ranks = worlds_number_ranks
        self.adapter = adapter
        self.at_boundary = at_boundary
        self._device = device

    def over(self, generation: Generation, at_boundary: AtBoundary) -> Engine:
        """One for another generation, which is used in another thread than the training one."""
        numbering = self._worlds_number_ranks
        return Engine(generation, self._device, self.adapter, at_boundary, numbering)

    @property
    def options(self) -> Options:
        """Settings of the session."""
        return self.generation.options

    @property
    def control(self) -> Control:
        """The small exchanges of all ranks."""
        return self.generation.control

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """The ways of bytes, by kind of memory."""
        return self.generation.lanes

    @property
    def device(self) -> torch.device:
        """Where parameters live."""
        return self._device

    @property
    def rank(self) -> int:
        """This rank in the generation."""
        return self.generation.members.rank

    @property
    def num_ranks(self) -> int:
        """The ranks of the generation."""
        return self.generation.members.num_ranks

    def read(
        self,
        state: Source,
        names: Mapping[str, str] | None = None,
        apart: Collection[str] = (),
    ) -> Side:
        """Reads the present tensors of ``state``; raises DeviceError when a lane lacks for one."""
        if isinstance(state, Held):
            return Side.of_held(state.under(apart))
        return Side.of(None if state is None else self.adapter.inventory(state, names, apart))

    def after_training(self) -> list[_native.Token]:
        """Ends when what the script has put on its stream so far has; empty on the CPU."""
        if self._device.type == "cpu":
            return []
        stream = torch.cuda.current_stream(self._device).cuda_stream
        return [_native.cuda_stream_token(self._device.index, stream)]

    def _hash_means(self) -> _native.HashMeans:
        return _native.HashMeans(
            self.options.num_threads,
            self.generation.maker.device_copier,
            self.after_training(),
            self.options.timeout.total_seconds(),
        )

    @contextmanager
    def lanes_end_with_an_error(self, reason: str) -> Iterator[None]:
        """Ends all lanes as soon as the body raises, before this rank tells the others of it.

        They may sit in another lane than the one that failed here, and would wait there for this
        rank until the deadline.
        """
        try:
            yield
        except BaseException:
            self.generation.disconnect(reason)
            raise

    def together(self, phase: str, work: Callable[[], _T]) -> _T:
        """Runs ``work``; when it fails on one rank, every rank raises. Collective."""
        result, error = attempt(work)
        self.control.agree(phase, error, None)
        return result  # type: ignore[return-value]

    def joined(self, phase: str, work: Callable[[], _T], combine: Callable[[list[_T]], _R]) -> _R:
        """One answer to what ``work`` returned by rank, made by ``combine`` on rank 0. Collective.

        When either fails on one rank, every rank raises.
        """
        result, error = attempt(work)
        return self.control.agree(phase, error, result, combine)

    def sum_of_elements(self, shard_map: _native.ShardMap, table: _native.StateTable) -> int:
        """What the elements of this rank add to the fingerprint of a state."""
        return _native.fingerprint_share(shard_map, self.rank, table, self._hash_means())

    def content_shares(
        self, shard_map: _native.ShardMap, table: _native.StateTable, names: Sequence[str]
    ) -> list[int]:
        """What this rank adds to sums that are equal where named tensors hold the same."""
        return _native.content_shares(shard_map, self.rank, table, names, self._hash_means())

    def differing_replicas(
        self, shard_map: _native.ShardMap, table: _native.StateTable, names: Sequence[str] = ()
    ) -> list[str]:
        """One line per cell on which owners differ, of named tensors or of all. Collective."""
        return self.joined(
            "comparing replicas",
            lambda: _native.fragment_hashes(shard_map, self.rank, table, self._hash_means(), names),
            lambda hashes: _native.compare_replicas(shard_map, hashes),
        )

    def encoded(self, sides: Sequence[Side], seats: Seats) -> dict[str, bytes]:
        """What this rank says of each of its sides, to be listed and published.

        Where worlds number their ranks, ``seats`` tells who sits where.
        """
        ranks = [*range(len(seats.ids))]
        if self._worlds_number_ranks:
            ranks = self.generation.members.ranks_of(seats.ids)
        return {str(number): side.table.encode_as(ranks) for number, side in enumerate(sides)}

    def merged(
        self, published: Mapping[str, Sequence[Publication]], sides: Sequence[Side]
    ) -> list[_native.ShardMap]:
        """What all ranks say of a side as one map, proved by this rank; for each of ``sides``."""
        maps = []
        for number, side in enumerate(sides):
            publications = [(each.blob, each.ranks) for each in published[str(number)]]
            shard_map = _native.ShardMap.merge(publications, self.num_ranks)
            shard_map.prove_live(self.rank, side.table)
            maps.append(shard_map)
        return maps

    def publish_map(self, side: Side, seats: Seats) -> _native.ShardMap:
        """Joins what all ranks say of their state into one map, proved by each. Collective."""
        phase = "reading the state"
        parts, error = attempt(lambda: self.encoded([side], seats))
        held_by = self.control.agree(phase, error, listing(parts or {}), holders)
        assert parts is not None  # else all ranks have raised
        published = self.control.publish(parts, held_by, phase)
        return self.together(phase, lambda: self.merged(published, [side])[0])
