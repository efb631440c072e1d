"""Meetings over the groups of a generation, for members that somebody else has called together.

Whoever meets over a store learns who did not come, and meets the others again when groups are lost.
Members of an elastic job are told by their coordinator when they meet and who has died, and what
hangs in a group can be ended at once, which no wait for a store can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dynatrain.generation.leftovers import Leftovers
from dynatrain.generation.rendezvous import Meeting


class Gathering:
    """Meetings of all members of one generation, in their order.

    Args:
        gather: brings this member's payload to all, and returns those of all by rank; what it
            raises is raised.
    """

    def __init__(self, gather: Callable[[bytes], Sequence[bytes]]) -> None:
        self.leftovers = Leftovers()  #: the coordinator deletes keys of the job
        self._gather = gather
        self._number = 0

    def meet(self, payload: bytes, moment: str = "", *, is_dated: bool = True) -> Meeting:
        """Arrives with ``payload`` and waits for all others; the rest is of no use here."""
        del moment, is_dated
        name = str(self._number)
        self._number += 1
        return Meeting(name, self._gather(payload))

    def failed(self, why: str = "") -> None:
        """Nothing: the coordinator tells who is lost."""

    def is_ahead(self, key: str) -> bool:
        """Whether a key of the store is one of these meetings, which have none."""
        del key
        return False
