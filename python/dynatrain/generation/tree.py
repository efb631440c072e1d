"""What all ranks bring goes up a tree of small groups to rank 0, and one answer comes down.

The ranks stand in groups of about sqrt(N) neighbours, whose first ones are a group as well: a rank
has at most 2 sqrt(N) connections and rank 0 receives 2 sqrt(N) messages, however many ranks there
are. Up to ``_ONE_GROUP`` ranks are one group.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import torch

from dynatrain._torch_private.gloo_links import Links, links_of, num_connected
from dynatrain.generation.joined import join, split
from dynatrain.generation.members import Members
from dynatrain.generation.messages import Messages

_ONE_GROUP = 16
#: What stands before the first piece of a message: the size of all of it, u64.
_SIZE = struct.Struct("<Q")
#: A first piece: larger than most of what ranks bring, and than most answers.
_FIRST_BYTES = 2048
#: Tags of pieces of known sizes, and of blobs: were ranks not in one step, their messages must not
#: meet in memory that is too small, which ends the process.
_PIECES, _BLOBS = 1, 2


class Tree:
    """The groups of one rank, each with its first rank on top.

    Args:
        members: all ranks.
        timeout: deadline of the connecting, and of each exchange.
        purpose: a name that no groups of these members have had, the same on all.
        width: ranks of a group, about sqrt(N) where it is not given.

    Raises:
        RuntimeError: a member does not come; so from every method when one does not answer.
    """

    def __init__(
        self, members: Members, timeout: timedelta, purpose: str, width: int | None = None
    ) -> None:
        num_ranks, rank = members.num_ranks, members.rank
        self._num_ranks = num_ranks
        self._width = width or _width(num_ranks)
        self._timeout = timeout
        first = rank - rank % self._width
        neighbours = range(first, min(first + self._width, num_ranks))
        self._levels = [_Level(members, f"{purpose}/{first}", neighbours, timeout)]
        tops = range(0, num_ranks, self._width)
        if rank == first and len(tops) > 1:
            self._levels.append(_Level(members, f"{purpose}/tops", tops, timeout))
        self._links: list[Links] | None = None
        self._num_stood = 0

    def end(self) -> None:
        """Lets go of the groups: connections and threads end, whoever holds this object on.

        An error's frames do, for as long as the script holds the error.
        """
        for level in self._levels:
            level.end()

    def num_lost(self) -> int:
        """Connections of this rank that have ended since it was asked first; not collective.

        A message to the store for each group of this rank, the first time; none later.
        """
        if self._links is None:
            self._links = [links for level in self._levels if (links := level.links()) is not None]
            self._num_stood = num_connected(self._links)
        return self._num_stood - num_connected(self._links)

    def exchange(self, part: bytes, answer_of: Callable[[list[bytes]], bytes]) -> bytes:
        """What ``answer_of`` makes on rank 0 of the parts of all ranks, by rank. Collective."""
        until = time.monotonic() + self._timeout.total_seconds()
        parts: list[bytes] | None = self._levels[0].gather(part, until)
        if parts is not None and len(self._levels) > 1:
            parts = self._flattened(self._levels[1].gather(join(parts), until))
        answer = None if parts is None else answer_of(parts)
        for level in reversed(self._levels):
            answer = level.spread(answer, until)
        assert answer is not None
        return answer

    def _flattened(self, joined: Sequence[bytes] | None) -> list[bytes] | None:
        """The parts of all ranks, from what the top of every group has joined."""
        if joined is None:
            return None
        return [
            part
            for number, each in enumerate(joined)
            for part in split(each, self._size_of_group(number))
        ]

    def _size_of_group(self, number: int) -> int:
        return min(self._width, self._num_ranks - number * self._width)

    def share(self, buffer: torch.Tensor, parts: Mapping[int, slice]) -> None:
        """Fills ``buffer`` on all ranks: each source has its part of it filled before. Collective.

        Args:
            buffer: bytes in host memory, as many on every rank.
            parts: where the part of each source lies, one behind the other in the order of ranks;
                the same on all ranks.
        """
        until = time.monotonic() + self._timeout.total_seconds()
        self._levels[0].collect(buffer, parts, until)
        if len(self._levels) > 1:
            self._levels[1].collect(buffer, self._by_top(parts), until)
        for level in reversed(self._levels):
            level.copy_down(buffer, until, _BLOBS)

    def _by_top(self, parts: Mapping[int, slice]) -> dict[int, slice]:
        """The parts of each group as one, by its top."""
        found: dict[int, slice] = {}
        for rank, part in sorted(parts.items()):
            top = rank - rank % self._width
            found[top] = slice(found.get(top, part).start, part.stop)
        return found


def _width(num_ranks: int) -> int:
    return num_ranks if num_ranks <= _ONE_GROUP else math.isqrt(num_ranks - 1) + 1


class _Level:
    """One group of a rank; position 0 is its top. ``until`` is in ``time.monotonic()``."""

    def __init__(self, members: Members, purpose: str, ranks: range, timeout: timedelta) -> None:
        self._ranks = ranks
        self._position = ranks.index(members.rank)
        self._store = members.store_of(purpose)
        group = members.group(purpose, timeout, ranks) if len(ranks) > 1 else None
        self._messages = Messages(group)

    def links(self) -> Links | None:
        """Where the positions listen; None where that is not known."""
        return links_of(self._store, "", self._position, len(self._ranks))

    def end(self) -> None:
        """Lets go of the group."""
        self._messages.end()

    def gather(self, part: bytes, until: float) -> list[bytes] | None:
        """The parts of all positions, on top; None elsewhere."""
        if self._position:
            for piece in _pieces(part):
                self._messages.post(piece, [0], _PIECES, answered=True)
            return None
        below = range(1, len(self._ranks))
        firsts = {position: _bytes(_FIRST_BYTES) for position in below}
        self._messages.receive(firsts, until, _PIECES, answered=True)
        rests = {
            position: _bytes(size)
            for position, first in firsts.items()
            if (size := _size_of(first) - _room(_FIRST_BYTES)) > 0
        }
        self._messages.receive(rests, until, _PIECES, answered=True)
        return [part, *(_joined(firsts[each], rests.get(each)) for each in below)]

    def spread(self, answer: bytes | None, until: float) -> bytes:
        """What is given on top, on all positions."""
        first, rest = _bytes(_FIRST_BYTES), None
        if answer is not None:
            first, *more = _pieces(answer)
            rest = more[0] if more else None
        self.copy_down(first, until, _PIECES)
        left = _size_of(first) - _room(_FIRST_BYTES)
        if left > 0:
            rest = _bytes(left) if rest is None else rest
            self.copy_down(rest, until, _PIECES)
        return _joined(first, rest) if answer is None else answer

    def collect(self, buffer: torch.Tensor, parts: Mapping[int, slice], until: float) -> None:
        """Fills the parts of ``buffer`` that belong to ranks of the group, on top."""
        if self._position:
            own = parts.get(self._ranks[self._position])
            if own is not None:
                self._messages.post(buffer[own], [0], _BLOBS, answered=True)
            return
        below = enumerate(self._ranks[1:], 1)
        found = {at: buffer[parts[rank]] for at, rank in below if rank in parts}
        self._messages.receive(found, until, _BLOBS, answered=True)

    def copy_down(self, buffer: torch.Tensor, until: float, tag: int) -> None:
        """Fills ``buffer`` on all positions with that on top: each sends it to log2 others."""
        step = 1
        while step <= self._position:
            step *= 2
        if self._position:
            self._messages.receive({self._position - step // 2: buffer}, until, tag)
        below = []
        while self._position + step < len(self._ranks):
            below.append(self._position + step)
            step *= 2
        self._messages.post(buffer, below, tag)
        self._messages.await_receipts(until)


def _bytes(size: int) -> torch.Tensor:
    return torch.empty(size, dtype=torch.uint8, device="cpu")


def _room(size: int) -> int:
    """Bytes of a message in its first piece of ``size`` bytes."""
    return size - _SIZE.size


def _pieces(message: bytes) -> list[torch.Tensor]:
    """A first piece with the size of the message, and one with the rest of it if there is any."""
    first = (_SIZE.pack(len(message)) + message[: _room(_FIRST_BYTES)]).ljust(_FIRST_BYTES, b"\0")
    rest = message[_room(_FIRST_BYTES) :]
    return [torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in (first, rest) if each]


def _size_of(first: torch.Tensor) -> int:
    """The size of a message, from its first piece."""
    (size,) = _SIZE.unpack(first[: _SIZE.size].numpy().tobytes())
    return int(size)


def _joined(first: torch.Tensor, rest: torch.Tensor | None) -> bytes:
    message = first[_SIZE.size :].numpy().tobytes()[: _size_of(first)]
    return message if rest is None else message + rest.numpy().tobytes()
