"""Who takes part in a session, as a value, and the groups that all of them make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import PrefixStore, Store

from dynatrain._torch_private.groups import gloo_group, place_in_job, session_store


@dataclass(frozen=True)
class Members:
    """The ranks of a session, seen by one of them.

    Attributes:
        name: of the session, unique within the job.
        rank: this rank, ``0 <= rank < num_ranks``.
        num_ranks: how many there are.
        store: of the session, under a prefix of its own.
    """

    name: str
    rank: int
    num_ranks: int
    store: Store

    @staticmethod
    def of_job() -> Members:
        """All ranks of the job, for a new session. Each rank has to call it once a session."""
        rank, num_ranks = place_in_job()
        name, store = session_store(rank)
        return Members(name, rank, num_ranks, store)

    def store_of(self, purpose: str) -> Store:
        """The part of the store for one purpose."""
        return PrefixStore(purpose, self.store)

    def group(self, purpose: str, timeout: timedelta, ranks: Sequence[int] | None = None) -> Any:
        """A ``ProcessGroupGloo`` of some members, this one among them. Collective over them.

        It is no group of the job: torch neither lists nor counts it, and its threads and sockets
        end when it is let go of.

        Args:
            purpose: a name that no group of this session has had, the same on all members.
            timeout: deadline of the connecting and of everything that is done over the group.
            ranks: of the members, in the order of the group; all of them where none are given.

        Raises:
            RuntimeError: a member does not come.
        """
        chosen = range(self.num_ranks) if ranks is None else ranks
        position = chosen.index(self.rank)
        return gloo_group(self.store_of(purpose), position, len(chosen), timeout)
