"""What the ranks brought to a meeting, as one answer: each distinct content once.

Layout, little-endian: number of ranks and of contents (u32 each); for each rank the number of its
content (u32); for each content its length (u64); the contents.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from dynatrain._errors import TransportError

_HEAD = struct.Struct("<II")


def join(payloads: Sequence[bytes]) -> bytes:
    """The answer for payloads by rank."""
    places: dict[bytes, int] = {}
    of_rank = [places.setdefault(payload, len(places)) for payload in payloads]
    return b"".join(
        [
            _HEAD.pack(len(payloads), len(places)),
            struct.pack(f"<{len(of_rank)}I", *of_rank),
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
        of_rank = struct.unpack_from(f"<{num_ranks}I", answer, _HEAD.size)
        sizes = struct.unpack_from(f"<{num_contents}Q", answer, _HEAD.size + 4 * num_ranks)
    except struct.error as error:
        raise _damaged(f"{len(answer)} bytes", num_ranks) from error
    begin = _HEAD.size + 4 * num_ranks + 8 * num_contents
    if begin + sum(sizes) != len(answer) or max(of_rank) >= num_contents:
        raise _damaged(f"{len(answer)} bytes for {begin + sum(sizes)}", num_ranks)
    contents = []
    for size in sizes:
        contents.append(answer[begin : begin + size])
        begin += size
    return [contents[number] for number in of_rank]


def _damaged(what: str, num_ranks: int) -> TransportError:
    return TransportError(
        f"session: the answer of a meeting is damaged: {what}\n"
        f"  expected what {num_ranks} ranks brought\n"
        "  no switch was begun by this rank; its state is intact\n"
        "  run the same version of dynatrain on all ranks, and give the job a store of its own",
        retryable=False,
    )
