"""Who takes part in a generation, as a value, and the groups that its members make."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from typing import Any

from torch._C._distributed_c10d import PrefixStore, Store

from dynatrain._torch_private.groups import gloo_group, place_in_job, session_store
from dynatrain.generation.connections import Connections
from dynatrain.generation.nodes import numbered


@dataclass(frozen=True)
class Member:
    """One process.

    Attributes:
        id: tells it from all other processes that are or were in the job.
        host: the same for all processes of one machine; empty where nobody has asked yet.
        called: what people call its host; empty where that is not known.
        address: that its groups of Gloo listen on, the library's and those of worlds; torch chooses
            one where it is empty. Of this member alone, the others find it in the store.
    """

    id: str
    host: str = ""
    address: str = ""
    called: str = ""


@dataclass(frozen=True)
class Members:
    """The processes of a generation in their order, seen by one of them.

    They need be neither the first ones of the job nor all of it; the rank of a member is its place
    among them.

    Attributes:
        name: of the generation, unique within the job.
        rank: this member, ``0 <= rank < num_ranks``.
        each: the members, by rank.
        store: of the generation, under a prefix of its own.
        connections: where those of its groups are noted, so that they can be ended from another
            thread; None where nobody will.
    """

    name: str
    rank: int
    each: tuple[Member, ...]
    store: Store
    connections: Connections | None = field(default=None, kw_only=True)

    @staticmethod
    def of_job() -> Members:
        """All ranks of the job, for a new session. Each rank has to call it once a session."""
        rank, num_ranks = place_in_job()
        name, store = session_store(rank)
        return Members.of_ranks(name, rank, num_ranks, store)

    @staticmethod
    def of_ranks(name: str, rank: int, num_ranks: int, store: Store) -> Members:
        """Members that are known by their ranks, which they keep as long as the job lasts."""
        return Members(
            name, rank, tuple(Member(f"rank {each}") for each in range(num_ranks)), store
        )

    def on_hosts(self, hosts: Sequence[str]) -> Members:
        """The same members, of which is known where they run."""
        placed = (replace(m, host=host) for m, host in zip(self.each, hosts, strict=True))
        return replace(self, each=tuple(placed))

    def listening_on(self, address: str) -> Members:
        """The same members, of which this one listens on another address."""
        each = list(self.each)
        each[self.rank] = replace(self.own, address=address)
        return replace(self, each=tuple(each))

    @property
    def num_ranks(self) -> int:
        """How many there are."""
        return len(self.each)

    @property
    def own(self) -> Member:
        """This member."""
        return self.each[self.rank]

    @cached_property
    def node_of_rank(self) -> list[int]:
        """The machine of each rank as a number, in the order in which they first occur."""
        return numbered([member.host for member in self.each])

    @cached_property
    def _rank_of(self) -> Mapping[str, int]:
        return {member.id: rank for rank, member in enumerate(self.each)}

    def ranks_of(self, ids: Sequence[str]) -> list[int]:
        """The ranks of these members; KeyError where one is not among them.

        A place that nobody has any more, with an empty id, gets a number that is no rank.
        """
        nobody = itertools.count(self.num_ranks)
        return [self._rank_of[each] if each else next(nobody) for each in ids]

    def store_of(self, purpose: str) -> Store:
        """The part of the store for one purpose."""
        return PrefixStore(purpose, self.store)

    def group(self, purpose: str, timeout: timedelta, ranks: Sequence[int] | None = None) -> Any:
        """A ``ProcessGroupGloo`` of some members, this one among them. Collective over them.

        It is no group of the job: torch neither lists nor counts it, and its threads and sockets
        end when it is let go of; its keys stay.

        Args:
            purpose: a name that no group of this generation has had, the same on all members.
            timeout: deadline of the connecting and of everything that is done over the group.
            ranks: of the members, in the order of the group; all of them where none are given.

        Raises:
            RuntimeError: a member does not come.
            TransportError: the connections of this generation were ended.
        """
        chosen = range(self.num_ranks) if ranks is None else ranks
        position = chosen.index(self.rank)
        store, address = self.store_of(purpose), self.own.address
        place = position, len(chosen)
        if self.connections is None:
            return gloo_group(store, *place, timeout, address)
        group = self.connections.group(store, place, timeout, address)
        self.connections.note(store, "", place)
        return group
