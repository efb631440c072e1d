"""The control groups: small exchanges between all ranks of the job while a switch runs.

They are host groups of the library's own; nothing here shares a group with the script.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

import torch

from dynatrain import by_rank, words
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
from dynatrain.generation.tree import Tree
from dynatrain.given import described, said

_T = TypeVar("_T")
_R = TypeVar("_R")


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
    ranks: Sequence[int]


#: What a rank brings under each name: digest and size in bytes.
Listing = Mapping[str, tuple[bytes, int]]
#: One distinct blob: name, digest, size in bytes.
_Key = tuple[str, bytes, int]
#: The ranks that bring each distinct blob, by the lowest of them.
Holders = Mapping[_Key, Sequence[int]]


def listing(parts: Mapping[str, bytes]) -> Listing:
    """What the other ranks must know of ``parts`` before they are published."""
    return {name: (hashlib.sha256(blob).digest(), len(blob)) for name, blob in parts.items()}


def holders(listings: Sequence[Listing]) -> Holders:
    """The ranks that bring each distinct blob, by the lowest of them."""
    ranks_of: dict[_Key, list[int]] = {}
    for rank, listed in enumerate(listings):
        for name, (digest, size) in listed.items():
            ranks_of.setdefault((name, digest, size), []).append(rank)
    return {key: _in_short(ranks) for key, ranks in ranks_of.items()}


def _in_short(ranks: list[int]) -> Sequence[int]:
    """Ranks as a range where they are one: it is told in a few bytes, however many they are."""
    if len(ranks) < 3:
        return ranks
    found = range(ranks[0], ranks[-1] + 1, ranks[1] - ranks[0])
    return found if list(found) == ranks else ranks


def _nothing(_: Sequence[object]) -> None:
    """The answer where all have only said that it went well."""


class Control:
    """Exchanges between all ranks of the job with errors that every rank learns.

    In each, all ranks bring a value to rank 0, which makes one answer of them: a rank sends and
    receives a few messages, rank 0 about 2 sqrt(N).

    Args:
        members: all ranks.
        timeout: deadline of each exchange.
        connection: tells these groups from former ones of the same members.
        when_lost: called when an exchange has failed: others may have had its answer, and wait for
            this rank elsewhere.
    """

    def __init__(
        self,
        members: Members,
        timeout: timedelta,
        connection: str,
        when_lost: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.rank = members.rank
        self.num_ranks = members.num_ranks
        self.lost = False  #: an exchange has failed; the groups are of no further use
        self.timeout = timeout
        self._when_lost = when_lost
        self._number = 0
        self._tree: Tree | None = Tree(members, timeout, f"{connection}/control")

    def agree(
        self,
        phase: str,
        error: Exception | None,
        value: Any,
        combine: Callable[[list[Any]], _R] = _nothing,  # type: ignore[assignment]
    ) -> _R:
        """Joins the ranks' values unless one has an error; then every rank raises. Collective.

        Args:
            phase: words for what was tried, for the error.
            error: what this rank met, of any class, or None.
            value: what this rank brings, told in words. Equal ones are one object in what
                ``combine`` is given.
            combine: makes the answer of the values by rank, nothing where it is not given. It runs
                on rank 0 alone, and what it returns must be such as can be told in words.

        Raises:
            an error of the same kind on every rank, that of the lowest rank that has one. It is the
            own error where that is of this kind, else it names the ranks and what they met.
            TransportError: a rank did not answer, or is in another exchange than this one, and this
                one has no error of its own.
        """
        own = None if error is None else of_family(error, phase)
        trouble = None if own is None else Trouble.of(own)
        self._number += 1
        tree = self._open(phase)
        try:
            with self._losing_on_failure(phase):
                told = words.encode((self._number, trouble, value if own is None else None))
                answer = tree.exchange(told, partial(_answer, combine, phase))
                found: _Answer = words.decode(answer)
        except TransportError:
            if own is None or isinstance(own, TransportError):
                raise  # the latter mostly follows from the loss
            raise own  # noqa: B904 - what it was before another rank was lost as well
        self._check_in_step(found.numbers, phase)
        raise_alike(phase, own, found.troubles)
        return found.value  # type: ignore[no-any-return] # told by rank 0

    def gather(self, value: _T, phase: str) -> list[_T]:
        """Everybody's value, by rank; equal ones are one object. Collective.

        For few and small values: every rank reads what all have brought.
        """
        return self.agree(phase, None, value, list)

    def _open(self, phase: str) -> Tree:
        if self._tree is None:
            raise TransportError(
                f"session: the ranks could not go on with {phase}: this rank has let go of its "
                "groups\n  expected them to stand until the call has ended\n"
                "  a switch that was not voted on yet is given up, its source state is intact\n"
                "  call again on all ranks: the groups are made anew"
            )
        return self._tree

    def _check_in_step(self, numbers: Mapping[int, Sequence[int]], phase: str) -> None:
        """Refuses answers of another exchange: where they fit by chance, they would pass."""
        if not numbers:
            return
        self.release()
        others = {number: ranks for number, ranks in numbers.items() if number != self._number}
        raise TransportError(
            f"session: the ranks are out of step in {phase}: ranks "
            f"{sorted(rank for ranks in others.values() for rank in ranks)} are in another "
            f"exchange\n  expected number {self._number} on all ranks, got {sorted(others)}\n"
            "  a switch that was not voted on yet is given up, its source state is intact\n"
            "  call again on all ranks: the groups are made anew"
        )

    def publish(
        self, parts: Mapping[str, bytes], held_by: Holders, phase: str
    ) -> dict[str, list[Publication]]:
        """Exchanges blobs by name; each distinct one of a name travels once. Collective.

        What all ranks hold does not travel; the rest is sent by the lowest rank that holds it, up
        to rank 0 and down to all.

        Args:
            parts: what this rank brings.
            held_by: the ranks that bring each distinct blob, from :func:`holders`; the same on all
                ranks.
            phase: words for what was tried, for the error.

        Returns:
            The distinct blobs of every name, by the lowest rank that holds each.
        """
        travel = sorted(
            (ranks[0], key) for key, ranks in held_by.items() if len(ranks) < self.num_ranks
        )
        arrived = self._shared(travel, parts, phase)
        published: dict[str, list[Publication]] = {}
        for key, ranks in held_by.items():
            blob = parts[key[0]] if self.rank in ranks else arrived[key]
            published.setdefault(key[0], []).append(Publication(blob, ranks))
        return published

    def _shared(
        self, travel: Sequence[tuple[int, _Key]], parts: Mapping[str, bytes], phase: str
    ) -> dict[_Key, bytes]:
        """Blobs from their sources to all ranks, one behind the other in one piece of memory."""
        ends = list(accumulate((size for _, (_, _, size) in travel), initial=0))
        places = {key: slice(*ends[n : n + 2]) for n, (_, key) in enumerate(travel)}
        by_source: dict[int, slice] = {}
        for source, key in travel:
            begin = by_source.get(source, places[key]).start
            by_source[source] = slice(begin, places[key].stop)
        if not ends[-1]:
            return dict.fromkeys(places, b"")
        tree = self._open(phase)
        with self._losing_on_failure(phase):
            buffer = torch.zeros(ends[-1], dtype=torch.uint8, device="cpu")
            for source, key in travel:
                if source == self.rank and key[2]:
                    own = torch.frombuffer(bytearray(parts[key[0]]), dtype=torch.uint8)
                    buffer[places[key]].copy_(own)
            tree.share(buffer, by_source)
            return {
                key: buffer[places[key]].numpy().tobytes()
                for source, key in travel
                if source != self.rank
            }

    @contextmanager
    def _losing_on_failure(self, phase: str) -> Iterator[None]:
        """Lets go of the groups where this rank leaves an exchange in the middle.

        Their connections end, and what else waits for this rank does, so that all hear of it.
        """
        try:
            yield
        except BaseException as error:
            self.release()
            self._when_lost(f"the exchange of {phase} has failed")
            if isinstance(error, RuntimeError) and not isinstance(error, Error):
                raise self._lost(error, phase) from error  # Gloo's have no class of their own
            raise

    def num_lost(self) -> int:
        """Connections that have ended without this rank's doing since it was asked first.

        A peer has died, or has let go of its groups and says so in the store. Not collective; none
        where this rank has let go of them itself.
        """
        return 0 if self._tree is None else self._tree.num_lost()

    def release(self) -> None:
        """Lets go of the groups, whose threads end then."""
        self.lost = True
        if self._tree is not None:
            self._tree.end()
        self._tree = None

    def _lost(self, error: RuntimeError, phase: str) -> TransportError:
        seconds = self.timeout.total_seconds()
        return TransportError(
            f"session: the ranks could not finish {phase}: {in_words(error, seconds)}\n"
            f"  expected all {self.num_ranks} ranks to answer within {seconds:g} s (timeout_s)\n"
            "  a switch that was not voted on yet is given up, its source state is intact\n"
            "  a rank has died, is stuck, or left the call; see the output of the other ranks.\n"
            "  If all are alive, call again: the groups are made anew",
        )


#: Of a peer, in what Gloo says.
_ADDRESS = re.compile(r"\[([0-9a-fA-F.:]+)\]:(\d+)")
#: How Gloo says that nobody answered in time, and that a connection has ended.
_TOO_LATE, _CLOSED = ("timed out", "timeout"), ("closed by peer", "connection reset", "broken pipe")


def in_words(error: RuntimeError, seconds: float) -> str:
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


@words.record
@dataclass(frozen=True)
class _Answer:
    """What rank 0 answers in an exchange.

    Attributes:
        value: what all have brought, combined; None where one is in trouble.
        troubles: by rank, of those that are in trouble.
        numbers: ranks by the number of the exchange that they are in; empty where it is one.
    """

    value: Any
    troubles: Mapping[int, Trouble]
    numbers: Mapping[int, Sequence[int]]


def troubles_by_rank(told: Sequence[Trouble | None]) -> dict[int, Trouble]:
    """Those that met trouble, from what each rank told."""
    return {rank: trouble for rank, trouble in enumerate(told) if trouble is not None}


def _answer(combine: Callable[[list[Any]], Any], phase: str, parts: Sequence[bytes]) -> bytes:
    """The answer of rank 0 to what all ranks have brought."""
    read = {part: words.decode(part) for part in dict.fromkeys(parts)}
    ranks_in: dict[int, list[int]] = {}
    for rank, part in enumerate(parts):
        ranks_in.setdefault(read[part][0], []).append(rank)
    if len(ranks_in) > 1:
        return words.encode(_Answer(None, {}, ranks_in))
    found = {rank: read[part][1] for rank, part in enumerate(parts) if read[part][1] is not None}
    if not found:
        try:
            return words.encode(_Answer(combine([read[part][2] for part in parts]), {}, {}))
        except Exception as error:  # noqa: BLE001 - all ranks must learn of it
            found = {0: Trouble.of(of_family(error, phase))}
    return words.encode(_Answer(None, found, {}))


def raise_alike(phase: str, own: Error | None, failed: Mapping[int, Trouble]) -> None:
    """Raises on every rank when one is in trouble, everywhere an error of the same kind.

    It is the kind of the lowest rank in trouble, but that errors of communication come last: they
    mostly follow from what another rank met. A rank raises its own error where that is of this
    kind, else one that names the ranks and what they met.

    Args:
        phase: words for what was tried.
        own: the error of this rank, or None.
        failed: what each rank in trouble told, this one included.
    """
    if not failed:
        return
    first = min(failed, key=lambda rank: (failed[rank].kind == TransportError.__name__, rank))
    example = failed[first].example
    if own is not None and isinstance(own, type(example)):
        raise own
    texts = {rank: trouble.text for rank, trouble in failed.items()}
    lines = by_rank.lines(texts, lambda text, who: without_remains(_from_afar(text, who)))
    message = (
        f"session: {phase} was refused by {len(failed)} of the ranks\n{lines}\n"
        "  nothing was switched; the source state is intact on all ranks, training may go on\n"
        "  mend what these ranks say, and call again on all ranks"
    )
    raise like(example, message) from own


def _from_afar(text: str, who: str) -> str:
    """What other ranks say, whose traceback this one does not have."""
    text = text.replace("the traceback above this error", f"the traceback of {who}")
    return text.replace("the error above this one", f"the output of {who}")
