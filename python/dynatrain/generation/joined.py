"""What the ranks bring to a meeting, one after the other, and all of it as one answer.

All numbers are u32, little-endian, where nothing else is said. An entry, as a rank brings it: its
rank, the lengths of its moment and of its payload; both. The answer has each distinct payload once:
number of ranks and of contents; for each rank the number of its content, left out where there is
one content; for each content its length (u64); the contents.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from dynatrain._errors import TransportError

_HEAD, _ENTRY = struct.Struct("<II"), struct.Struct("<III")


@dataclass(frozen=True)
class Entry:
    """What one rank brings: a payload, and what it calls and when, in words, or nothing."""

    moment: str
    payload: bytes

    def of(self, rank: int) -> bytes:
        """The bytes that ``rank`` puts behind those of others."""
        moment = self.moment.encode(errors="backslashreplace")  # names of files may be no text
        return _ENTRY.pack(rank, len(moment), len(self.payload)) + moment + self.payload


def entries(brought: bytes, num_ranks: int) -> dict[int, Entry]:
    """What ranks have brought so far, by rank.

    Raises:
        TransportError: it is not what some of ``num_ranks`` ranks bring.
    """
    found: dict[int, Entry] = {}
    end = 0
    while end < len(brought):
        try:
            rank, *sizes = _ENTRY.unpack_from(brought, end)
        except struct.error as error:
            raise _damaged(f"{len(brought)} bytes", num_ranks) from error
        middle = end + _ENTRY.size + sizes[0]
        begin, end = end + _ENTRY.size, middle + sizes[1]
        if rank >= num_ranks or end > len(brought):
            raise _damaged(f"{len(brought)} bytes, with an entry of rank {rank}", num_ranks)
        found[rank] = Entry(brought[begin:middle].decode(errors="replace"), brought[middle:end])
    return found


def join(payloads: Sequence[bytes]) -> bytes:
    """The answer for payloads by rank."""
    places: dict[bytes, int] = {}
    of_rank = [places.setdefault(payload, len(places)) for payload in payloads]
    return b"".join(
        [
            _HEAD.pack(len(payloads), len(places)),
            struct.pack(f"<{len(of_rank)}I", *of_rank) if len(places) > 1 else b"",
            struct.pack(f"<{len(places)}Q", *map(len, places)),
            *places,
        ]
    )


def split(answer: bytes, num_ranks: int) -> list[bytes]:
    """The payloads by rank; equal ones are one object.

    Raises:
        TransportError: the answer is not what ``join`` made of ``num_ranks`` payloads.
    """
    try:
        found, num_contents = _HEAD.unpack_from(answer)
        if found != num_ranks or not 0 < num_contents <= num_ranks:
            raise _damaged(f"{found} ranks and {num_contents} contents", num_ranks)
        numbers = num_ranks if num_contents > 1 else 0
        of_rank = struct.unpack_from(f"<{numbers}I", answer, _HEAD.size)
        sizes = struct.unpack_from(f"<{num_contents}Q", answer, _HEAD.size + 4 * numbers)
    except struct.error as error:
        raise _damaged(f"{len(answer)} bytes", num_ranks) from error
    begin = _HEAD.size + 4 * numbers + 8 * num_contents
    if begin + sum(sizes) != len(answer) or max(of_rank, default=0) >= num_contents:
        raise _damaged(f"{len(answer)} bytes for {begin + sum(sizes)}", num_ranks)
    contents = []
    for size in sizes:
        contents.append(answer[begin : begin + size])
        begin += size
    return [contents[number] for number in of_rank] or contents * num_ranks


def _damaged(what: str, num_ranks: int) -> TransportError:
    return TransportError(
        f"session: the answer of a meeting is damaged: {what}\n"
        f"  expected what {num_ranks} ranks brought\n"
        "  no switch was begun by this rank; its state is intact\n"
        "  run the same version of dynatrain on all ranks, and give the job a store of its own",
        retryable=False,
    )
