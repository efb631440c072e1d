"""The control group: small exchanges between all ranks of the job while a switch runs.

It is a host group of the library's own; nothing here shares a group with the script.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from dynatrain import words
from dynatrain._errors import (
    Error,
    TransportError,
    kind_and_facts,
    like,
    of_family,
    of_kind,
    without_remains,
)
from dynatrain.generation.members import Members
from dynatrain.given import described, said

_T = TypeVar("_T")
#: What stands before a value: its size in bytes, and the number of the exchange, as u64 each.
_HEAD = struct.Struct("<QQ")
#: Larger than most values that are exchanged, small beside what a message costs anyway.
_FIRST_BYTES = 2032


def attempt(work: Callable[[], _T]) -> tuple[_T | None, Exception | None]:
    """What ``work`` returned, or what it raised: the other ranks must learn of either."""
    try:
        return work(), None
    except Exception as caught:  # noqa: BLE001 - whatever it is
        return None, caught


@dataclass(frozen=True)
class Publication:
    """A blob and the ranks that published exactly it."""

    blob: bytes
    ranks: list[int]


#: What a rank brings under each name: digest and size in bytes.
Listing = Mapping[str, tuple[bytes, int]]
#: One distinct blob: name, digest, size in bytes.
_Key = tuple[str, bytes, int]


def listing(parts: Mapping[str, bytes]) -> Listing:
    """What the other ranks must know of ``parts`` before they are published."""
    return {name: (hashlib.sha256(blob).digest(), len(blob)) for name, blob in parts.items()}


def holders(listings: Sequence[Listing]) -> dict[_Key, list[int]]:
    """The ranks that bring each distinct blob, by the lowest of them."""
    ranks_of: dict[_Key, list[int]] = {}
    for rank, listed in enumerate(listings):
        for name, (digest, size) in listed.items():
            ranks_of.setdefault((name, digest, size), []).append(rank)
    return ranks_of


class Control:
    """Collectives over all ranks of the job with errors that every rank learns.

    Args:
        members: all ranks.
        timeout: deadline of each exchange.
        connection: tells this group from former ones of the same members.
    """

    def __init__(self, members: Members, timeout: timedelta, connection: str) -> None:
        self.rank = members.rank
        self.num_ranks = members.num_ranks
        self.lost = False  #: an exchange has failed; the group is of no further use
        self._timeout = timeout
        self._number = 0
        self._group = members.group(f"{connection}/control", timeout)

    def gather(self, value: _T, phase: str) -> list[_T]:
        """Everybody's value, by rank, told in words. Collective.

        One exchange when all values are small, else a second one for what is left of them.
        ``phase`` is words for what was tried, for the error.

        Raises:
            TransportError: a rank did not answer, or is in another exchange than this one.
        """
        blob = words.encode(value)
        self._number += 1
        first = _HEAD.pack(len(blob), self._number) + blob[:_FIRST_BYTES]
        firsts = self._all_gather(first, _HEAD.size + _FIRST_BYTES, phase)
        heads = [_HEAD.unpack_from(first) for first in firsts]
        self._check_in_step([number for _, number in heads], phase)
        sizes = [size for size, _ in heads]
        blobs = [first[_HEAD.size :] for first in firsts]
        if max(sizes) > _FIRST_BYTES:
            rests = self._all_gather(blob[_FIRST_BYTES:], max(sizes) - _FIRST_BYTES, phase)
            blobs = [first + rest for first, rest in zip(blobs, rests, strict=True)]
        return [words.decode(part[:size]) for part, size in zip(blobs, sizes, strict=True)]

    def _check_open(self, phase: str) -> None:
        if self._group is None:
            raise TransportError(
                f"session: the ranks could not go on with {phase}: this rank has let go of its "
                "groups\n  expected them to stand until the call has ended\n"
                "  a switch that was not voted on yet is given up, its source state is intact\n"
                "  call again on all ranks: the groups are made anew"
            )

    def _check_in_step(self, numbers: Sequence[int], phase: str) -> None:
        """Refuses answers of another exchange: where they fit by chance, they would pass."""
        if len(set(numbers)) == 1:
            return
        self.release()
        own = numbers[self.rank]
        others = {rank: number for rank, number in enumerate(numbers) if number != own}
        raise TransportError(
            f"session: the ranks are out of step in {phase}: ranks {sorted(others)} are in another "
            f"exchange\n  expected number {own} on all ranks, got {others}\n"
            "  a switch that was not voted on yet is given up, its source state is intact\n"
            "  call again on all ranks: the group is made anew"
        )

    def _all_gather(self, part: bytes, size: int, phase: str) -> list[bytes]:
        """Every rank's ``part``, filled up with zeros to ``size`` bytes."""
        self._check_open(phase)
        own = torch.frombuffer(bytearray(part.ljust(size, b"\0")), dtype=torch.uint8)
        out = [torch.empty_like(own) for _ in range(self.num_ranks)]
        try:
            self._group.allgather([out], [own]).wait()
        except RuntimeError as error:
            raise self._lost(error, phase) from error
        return [item.numpy().tobytes() for item in out]

    def publish(
        self, parts: Mapping[str, bytes], listings: Sequence[Listing], phase: str
    ) -> dict[str, list[Publication]]:
        """Exchanges blobs by name; each distinct one of a name travels once. Collective.

        What all ranks hold does not travel; the rest takes one broadcast from each rank that is the
        lowest one to hold some of it.

        Args:
            parts: what this rank brings.
            listings: what ``listing(parts)`` is on each rank.
            phase: words for what was tried, for the error.

        Returns:
            The distinct blobs of every name, by the lowest rank that holds each.
        """
        ranks_of = holders(listings)
        sent_by: dict[int, list[_Key]] = {}
        for key, ranks in ranks_of.items():
            if len(ranks) < self.num_ranks:
                sent_by.setdefault(ranks[0], []).append(key)
        arrived = self._broadcast(sent_by, parts, phase)
        published: dict[str, list[Publication]] = {}
        for key, ranks in ranks_of.items():
            blob = parts[key[0]] if self.rank in ranks else arrived[key]
            published.setdefault(key[0], []).append(Publication(blob, ranks))
        return published

    def _broadcast(
        self, sent_by: Mapping[int, Sequence[_Key]], parts: Mapping[str, bytes], phase: str
    ) -> dict[_Key, bytes]:
        """Sends parts of some ranks to all, each rank's as one; returns those of the other ranks.

        All of them are under way before the first is waited for.
        """
        self._check_open(phase)
        buffers = {source: _room_for(keys) for source, keys in sent_by.items()}
        for key, view in _views(sent_by.get(self.rank, ()), buffers.get(self.rank)):
            if key[2]:
                view.copy_(torch.frombuffer(bytearray(parts[key[0]]), dtype=torch.uint8))
        try:
            works = [self._begin_broadcast(buffers[source], source) for source in sent_by]
            for work in works:
                work.wait()
        except RuntimeError as error:
            raise self._lost(error, phase) from error
        return {
            key: view.numpy().tobytes()
            for source, keys in sent_by.items()
            if source != self.rank
            for key, view in _views(keys, buffers[source])
        }

    def _begin_broadcast(self, buffer: torch.Tensor, source: int) -> Any:
        options = dist.BroadcastOptions()
        options.rootRank = source
        return self._group.broadcast([buffer], options)

    def agree(self, phase: str, error: Exception | None, value: _T) -> list[_T]:
        """Gathers ``value`` unless a rank has an error; then every rank raises. Collective.

        Args:
            phase: words for what was tried.
            error: what this rank met, of any class, or None.
            value: what this rank brings.

        Raises:
            an error of the same kind on every rank, that of the lowest rank that has one. It is the
            own error where that is of this kind, else it names the ranks and what they met.
        """
        own = None if error is None else of_family(error, phase)
        trouble = None if own is None else Trouble.of(own)
        outcomes = self.gather((trouble, value if own is None else None), phase)
        raise_alike(phase, own, [trouble for trouble, _ in outcomes])
        return [item for _, item in outcomes]  # type: ignore[misc] # without trouble, of all ranks

    def release(self) -> None:
        """Lets go of the group, whose threads end then."""
        self.lost = True
        self._group = None

    def _lost(self, error: RuntimeError, phase: str) -> TransportError:
        self.release()  # its connections end, so that ranks that wait for this one hear of it, too
        seconds = self._timeout.total_seconds()
        return TransportError(
            f"session: the ranks could not finish {phase}: {_in_words(error, seconds)}\n"
            f"  expected all {self.num_ranks} ranks to answer within {seconds:g} s (timeout_s)\n"
            "  a switch that was not voted on yet is given up, its source state is intact\n"
            "  a rank has died, is stuck, or left the call; see the output of the other ranks.\n"
            "  If all are alive, call again: the group is made anew",
        )


def _room_for(keys: Sequence[_Key]) -> torch.Tensor:
    """Memory for blobs, one behind the other."""
    return torch.zeros(max(sum(size for _, _, size in keys), 1), dtype=torch.uint8, device="cpu")


def _views(
    keys: Sequence[_Key], buffer: torch.Tensor | None
) -> Iterator[tuple[_Key, torch.Tensor]]:
    """Each blob's part of the memory that :func:`_room_for` returned."""
    end = 0
    for key in keys:
        assert buffer is not None
        end += key[2]
        yield key, buffer[end - key[2] : end]


#: How Gloo says that nobody answered in time, and that a connection has ended.
_ADDRESS = re.compile(r"\[([0-9a-fA-F.:]+)\]:(\d+)")
_TOO_LATE, _CLOSED = ("timed out", "timeout"), ("closed by peer", "connection reset", "broken pipe")


def _in_words(error: RuntimeError, seconds: float) -> str:
    """What Gloo met, in the library's words where they are known, with the address of the peer."""
    found = said(error)
    address = _ADDRESS.search(found)
    peer = f"the rank at {address[1]}:{address[2]}" if address else "a rank"
    if any(each in found.lower() for each in _CLOSED):
        return f"{peer} has closed the connection"
    if any(each in found.lower() for each in _TOO_LATE):
        return f"{peer} did not answer within {seconds:g} s"
    return found


@words.record
@dataclass(frozen=True)
class Trouble:
    """What a rank tells the others of an error that it met.

    Attributes:
        text: its class and message.
        kind: the class of the family that it is of.
        facts: what an error of this class is made with beside its message.
    """

    text: str
    kind: str
    facts: tuple[int, ...]

    @staticmethod
    def of(error: Error) -> Trouble:
        """What is to be told of ``error``."""
        return Trouble(described(error), *kind_and_facts(error))

    @property
    def example(self) -> Error:
        """An error of the same kind, with its facts, that says nothing."""
        return of_kind(self.kind, "", self.facts)


def raise_alike(phase: str, own: Error | None, troubles: Sequence[Trouble | None]) -> None:
    """Raises on every rank when one is in trouble, everywhere an error of the same kind.

    It is the kind of the lowest rank in trouble. A rank raises its own error where that is of this
    kind, else one that names the ranks and what they met.

    Args:
        phase: words for what was tried.
        own: the error of this rank, or None.
        troubles: what each rank told, this one included; None for a rank that met no error.
    """
    failed = {rank: trouble for rank, trouble in enumerate(troubles) if trouble is not None}
    if not failed:
        return
    example = next(iter(failed.values())).example
    if own is not None and isinstance(own, type(example)):
        raise own
    lines = "\n".join(
        f"  rank {rank}: {without_remains(trouble.text)}" for rank, trouble in failed.items()
    )
    message = (
        f"session: {phase} was refused by {len(failed)} of the ranks\n{lines}\n"
        "  nothing was moved; the source state is intact on all ranks, training may go on\n"
        "  mend what these ranks say, and call again on all ranks"
    )
    raise like(example, message) from own


def merge_plain(publications: Sequence[Publication]) -> list[tuple[bytes, list[int]]]:
    """Publications as the native module takes them."""
    return [(item.blob, item.ranks) for item in publications]
