"""Messages over a group of Gloo, of which both ends hear when a connection ends.

Gloo (torch 2.11 to 2.15) tells nobody of what it has begun to send or to receive when a connection
ends: whoever waits for such a message waits for the whole deadline, whether the peer has died or
the connection was cut. What it has not begun ends at once. So nobody waits for bytes here. Behind a
message goes an empty one, which cannot be half there and comes when all before it have; and an
empty one comes back, which is what the sender waits for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch

#: Tags of the empty messages; others have others.
_RECEIPT, _END = 0, 3
#: What a connection takes in one piece, unless what is larger stands before it: a message of this
#: size at most, alone on its way, has no empty one behind it.
_AT_ONCE_BYTES = 4096


class Messages:
    """What goes over one group; used by one thread at a time. An error leaves it of no further use.

    Args:
        group: as :meth:`dynatrain.generation.members.Members.group` makes it, of this object alone.

    Raises:
        RuntimeError: from every method but ``end``, when a peer ends or does not answer in time.
    """

    def __init__(self, group: Any) -> None:
        self._group = group
        self._sent: list[Any] = []
        self._receipts: list[Any] = []
        #: By peer, until it answers: its next message says that it has had the last receipt.
        self._given: dict[int, Any] = {}

    def end(self) -> None:
        """Lets go of the group, whoever holds this object on."""
        self._group = None
        for works in (self._sent, self._receipts, self._given):
            works.clear()

    def post(
        self, buffer: torch.Tensor, positions: Sequence[int], tag: int, *, answered: bool = False
    ) -> None:
        """Sends ``buffer`` to each of ``positions``; :meth:`await_receipts` waits for it.

        Nothing is sent where there is nothing in ``buffer``.

        Args:
            buffer: bytes in host memory.
            positions: in the group.
            tag: 1 or 2.
            answered: there is no receipt: before :meth:`await_receipts`, this rank receives what is
                only sent when this has come. The receiver says so too.
        """
        for each in positions if buffer.numel() else ():
            if not answered:
                # First: a receiver that has the message can say so at once, and go.
                self._receipts.append(self._group.recv([_nothing()], each, _RECEIPT))
            self._sent.append(self._group.send([buffer], each, tag))
            if buffer.numel() > _AT_ONCE_BYTES:
                self._sent.append(self._group.send([_nothing()], each, _END))

    def await_receipts(self, until: float) -> None:
        """Waits for all that was posted; ``until`` is in ``time.monotonic()``."""
        _await(self._receipts, until)
        self._sent.clear()

    def receive(
        self,
        buffers: Mapping[int, torch.Tensor],
        until: float,
        tag: int,
        *,
        answered: bool = False,
    ) -> None:
        """Fills the buffers by the positions that they come from; tells these when all have."""
        filled = {position: buffer for position, buffer in buffers.items() if buffer.numel()}
        coming, ends = [], []
        try:
            for position, buffer in filled.items():
                coming.append(self._group.recv([buffer], position, tag))
                if buffer.numel() > _AT_ONCE_BYTES:
                    ends.append(self._group.recv([_nothing()], position, _END))
            _await(ends, until)
            _await(coming, until)
        finally:
            coming.clear()
            ends.clear()
        for position in () if answered else filled:
            self._given[position] = self._group.send([_nothing()], position, _RECEIPT)


def _await(works: list[Any], until: float) -> None:
    """Waits for all ``works`` together, at least a millisecond for each; empties the list."""
    try:
        while works:
            works.pop(0).wait(timedelta(seconds=max(until - time.monotonic(), 0.001)))
    finally:
        works.clear()  # they hold connections, and frames of an error would hold them


def _nothing() -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device="cpu")
