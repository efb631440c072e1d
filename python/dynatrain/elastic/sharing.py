"""What there is of memory and time for copies that all members of a host make at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from dynatrain import _native
from dynatrain._errors import BudgetError
from dynatrain.elastic.copies import CopiedState, Snapshot

#: What a copy tells but for its run, what is copied, and kept objects that come with it.
Part = tuple[CopiedState, _native.PackedState, Mapping[str, bytes]]
#: Memory that is touched for the first time comes at this rate at least, where pages are small.
_FRESH_BYTES_PER_SECOND = 1 << 30


class Sharing:
    """Memory and time for copies of what a switch has left.

    Args:
        num_neighbours: members of this host that make such copies now, this one among them.
        seconds: for all of them; who is later with its report counts as lost.
    """

    def __init__(self, num_neighbours: int, seconds: float) -> None:
        self._num_neighbours = num_neighbours
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def seconds_left(self) -> float:
        """Until the copies have to be done."""
        return max(self._until - time.monotonic(), 0.0)

    def take_room(
        self, slot: Snapshot, parts: Sequence[Part], device: torch.device
    ) -> Sequence[Part]:
        """Makes room for all parts, or else for the largest; returns those that have some.

        Raises:
            BudgetError: there is no memory for any, or no time to take it.
        """
        largest = max(parts, key=lambda part: part[1].size_bytes)
        for some in (parts, [largest]):
            size = sum(packed.size_bytes for _, packed, _ in some)
            try:
                self._check_time(slot, size)
                slot.make_room(size, device, self._num_neighbours)
            except BudgetError:
                if some is not parts:
                    raise
            else:
                return some
        raise AssertionError("the last try has raised")

    def _check_time(self, slot: Snapshot, size_bytes: int) -> None:
        has_room = slot.run is not None and slot.run.size_bytes >= size_bytes
        if not has_room and size_bytes > _FRESH_BYTES_PER_SECOND * self.seconds_left():
            raise BudgetError(
                f"snapshot: no time to take {size_bytes} bytes of memory\n"
                f"  copies behind a failed switch have {self._seconds:g} s (timeout_s / 12)\n"
                "  nothing was copied; older copies stand\n"
                "  snapshot_every= has the memory there, and a longer timeout_s leaves more time"
            )
