"""Messages over a group of Gloo, of which the sender hears that they have come.

A receive of Gloo ends as soon as its connection does. A send does not, once it stands in the queue
of the connection (torch 2.11 to 2.15): whoever waits for it waits for the whole deadline, whether
the peer has died or the connection was cut. So nobody waits for a send here: its receiver says that
it has come, and this is what the sender waits for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch

#: The tag of receipts; messages have others.
_RECEIPT = 0


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
            tag: 1 or more.
            answered: there is no receipt: before :meth:`await_receipts`, this rank receives what is
                only sent when this has come. The receiver says so too.
        """
        for each in positions if buffer.numel() else ():
            if not answered:
                # First: a receiver that has the message can say so at once, and go.
                self._receipts.append(self._group.recv([_byte()], each, _RECEIPT))
            self._sent.append(self._group.send([buffer], each, tag))

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
        _await([self._group.recv([each], at, tag) for at, each in filled.items()], until)
        for position in () if answered else filled:
            self._given[position] = self._group.send([_byte()], position, _RECEIPT)


def _await(works: list[Any], until: float) -> None:
    """Waits for all ``works`` together, at least a millisecond for each; empties the list."""
    try:
        while works:
            works.pop(0).wait(timedelta(seconds=max(until - time.monotonic(), 0.001)))
    finally:
        works.clear()  # they hold connections, and frames of an error would hold them


def _byte() -> torch.Tensor:
    return torch.zeros(1, dtype=torch.uint8, device="cpu")
