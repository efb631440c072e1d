"""Who keeps a copy of whose state, and the way on which copies go there."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch

from dynatrain import words
from dynatrain._limits import room_for_groups
from dynatrain.elastic.copies import CopiedState
from dynatrain.generation.members import Members
from dynatrain.generation.messages import Messages
from dynatrain.generation.tree import Tree
from dynatrain.layout import Layout

#: Bytes of one message: what a partner has not taken yet holds up no more than this.
_PIECE_BYTES = 64 << 20
_TAG = 1


@words.record
@dataclass(frozen=True)
class Brought:
    """What a member brings to a round.

    Attributes:
        state: what it has copied; None where it has not, for the reason in ``why``.
        sum: of the run.
        size_bytes: that the next copy will have, as far as it is known.
        why: it has copied nothing.
    """

    state: CopiedState | None
    sum: int
    size_bytes: int
    why: str = ""


@words.record
@dataclass(frozen=True)
class Done:
    """What has come of the rounds of a world so far; versions, -1 where there is none.

    Attributes:
        whole: the last one of which all members and keepers have the copies.
        tried: the last one that was to be written to disk.
        saved: the last one that is on disk.
    """

    whole: int = -1
    tried: int = -1
    saved: int = -1


@words.record
@dataclass(frozen=True)
class Said:
    """What a member says at the end of a round.

    Attributes:
        at: the boundary that it has come to, in completed steps.
        why: what it keeps for its partner, or has copied itself, is not whole; empty where all is.
        soon: whether the next round may work at once.
        done: what it knows of.
        last: the boundary at which its script ends.
    """

    at: int
    why: str = ""
    soon: bool = False
    done: Done = Done()
    last: int = -1


@words.record
@dataclass(frozen=True)
class Agreed:
    """What all have said together.

    Attributes:
        at: the furthest boundary that one of them has come to.
        why: the reasons of those that failed, by rank; empty where all went well.
        soon: whether all that failed say so.
        done: what one of them knows of.
        last: the boundary at which all scripts end; -1 where they do not say the same.
    """

    at: int
    why: tuple[tuple[int, str], ...]
    soon: bool
    done: Done
    last: int


def partners_of(rank: int, nodes: Sequence[int], layout: Layout | None = None) -> tuple[int, int]:
    """The rank that keeps what ``rank`` has copied, and the one that it keeps the copies of.

    About half the way round all ranks, ordered by machine: on another one, unless most ranks share
    one; and where it can be, not on one that holds the same parts as a replica: with both of them
    these parts would be lost, however many others live.

    Args:
        rank: one of them.
        nodes: the machine of each.
        layout: of them; None where it has no replicas.
    """
    replicated = layout is not None and layout.group(rank, "dp_replicate") != [rank]
    alike = [*range(len(nodes))]
    if layout is not None and replicated:
        alike = [layout.group(each, "dp_replicate")[0] for each in alike]
    order = sorted(range(len(nodes)), key=lambda each: (nodes[each], each))

    def cost(keepers: Sequence[int]) -> tuple[int, ...]:
        """Members that keep several; copies lost with their member, its machine, its replicas."""
        pairs = [*enumerate(keepers)]
        return (
            len(keepers) - len({*keepers}),
            sum(each == keeper for each, keeper in pairs),
            sum(nodes[each] == nodes[keeper] for each, keeper in pairs),
            sum(alike[each] == alike[keeper] for each, keeper in pairs),
        )

    half = len(nodes) // 2
    ways = ((half + more, turn) for more in (0, 1, -1) for turn in range(2))
    keepers = min((_keepers(order, nodes, *way) for way in ways), key=cost)
    return keepers[rank], keepers.index(rank)


def _keepers(order: Sequence[int], nodes: Sequence[int], shift: int, turn: int) -> list[int]:
    """By rank, who stands ``shift`` places on in ``order``, and ``turn`` on within its machine.

    The second half of the ranks turns the other way: so two often keep each other's, and many pairs
    are made at a time. In one large ring each pair would wait for the one before it.
    """
    num_ranks = len(order)
    begins: dict[int, int] = {}
    for at, each in enumerate(order):
        begins.setdefault(nodes[each], at)
    sizes = Counter(nodes)
    keepers = [0] * num_ranks
    for at, each in enumerate(order):
        there = (at + shift) % num_ranks
        node = nodes[order[there]]
        turned = turn if at < num_ranks // 2 else -turn
        keepers[each] = order[begins[node] + (there - begins[node] + turned) % sizes[node]]
    return keepers


class Channel:
    """The groups over which copies go, of their own; used by one thread. Made collectively.

    Args:
        members: of a world, under a name of its own.
        timeout: deadline of the connecting and of every message.
        layout: of the world.
        keeps: whether copies have a keeper; without one nothing is swapped. Needs two members.

    Raises:
        RuntimeError, TransportError: a member does not come; so from every method.
        OSError: the system has no room for the groups.
    """

    def __init__(
        self,
        members: Members,
        timeout: timedelta,
        layout: Layout | None = None,
        *,
        keeps: bool = True,
    ) -> None:
        self._rank = members.rank
        self._keeps = keeps
        pairs = set[tuple[int, ...]]()
        if keeps:
            self.keeper, self.kept = partners_of(members.rank, members.node_of_rank, layout)
            pairs = {tuple(sorted((self._rank, each))) for each in (self.keeper, self.kept)}
        self._timeout = timeout
        with room_for_groups(members.num_ranks, *[2] * len(pairs)):
            # In one order everywhere, so that both ranks of the first pair that lacks are there.
            self._messages = {
                pair: Messages(members.group(f"pair/{pair[0]}-{pair[1]}", timeout, pair))
                for pair in sorted(pairs)
            }
            #: Over all members: what rank 0 makes of all parts, on all.
            self.exchange = Tree(members, timeout, "round").exchange

    def swap(
        self,
        brought: Brought,
        own: torch.Tensor | None,
        room_for: Callable[[Brought], torch.Tensor | None],
    ) -> Brought:
        """Brings a copy to the keeper, and takes that of the other. Collective over the members.

        Args:
            brought: what this rank brings.
            own: the bytes of its run; None where it has copied nothing.
            room_for: where the other's bytes are to go; None where there is no room, or none of
                them are wanted.

        Returns:
            What the other has brought; nothing where no copy has a keeper.
        """
        if not self._keeps:
            return Brought(None, 0, 0, "nobody keeps the copies of another one")
        told = words.encode(brought)
        size = torch.tensor([len(told)])
        other_size = torch.zeros(1, dtype=torch.int64)
        self._both(size, other_size)
        other_told = torch.empty(int(other_size), dtype=torch.uint8)
        self._both(torch.frombuffer(bytearray(told), dtype=torch.uint8), other_told)
        other: Brought = words.decode(other_told.numpy().tobytes())
        room = None if other.state is None else room_for(other)
        takes = torch.tensor([room is not None])
        taken = torch.zeros(1, dtype=torch.bool)
        self._both(takes, taken, back=True)
        sent = own if bool(taken) else None
        self._pieces(sent, room)
        return other

    def agree(self, said: Said) -> Agreed:
        """What all say at the end of a round. Collective."""
        told: Agreed = words.decode(self.exchange(words.encode(said), _agreed))
        return told

    def _pieces(self, own: torch.Tensor | None, room: torch.Tensor | None) -> None:
        """Sends ``own`` and fills ``room``, piece by piece, whichever there are."""
        ends = [0 if each is None else each.numel() for each in (own, room)]
        for begin in range(0, max(ends), _PIECE_BYTES):
            piece = slice(begin, begin + _PIECE_BYTES)
            send = own[piece] if own is not None and begin < ends[0] else None
            receive = room[piece] if room is not None and begin < ends[1] else None
            self._both(send, receive)

    def _both(
        self, sent: torch.Tensor | None, received: torch.Tensor | None, *, back: bool = False
    ) -> None:
        """Sends to the keeper what is received of the other one, or ``back``, the other way."""
        to, of = (self.kept, self.keeper) if back else (self.keeper, self.kept)
        until = time.monotonic() + self._timeout.total_seconds()
        there, at = self._with(to)
        if sent is not None:
            there.post(sent, [at], _TAG)
        if received is not None:
            here, position = self._with(of)
            here.receive({position: received}, until, _TAG)
        there.await_receipts(until)

    def _with(self, peer: int) -> tuple[Messages, int]:
        pair = tuple(sorted((self._rank, peer)))
        return self._messages[pair], pair.index(peer)


def _agreed(parts: list[bytes]) -> bytes:
    said: list[Said] = [words.decode(each) for each in parts]
    failed = [(rank, each) for rank, each in enumerate(said) if each.why]
    why = tuple((rank, each.why) for rank, each in failed)
    return words.encode(
        Agreed(
            max(each.at for each in said),
            why,
            all(each.soon for _, each in failed),
            Done(
                max(each.done.whole for each in said),
                max(each.done.tried for each in said),
                max(each.done.saved for each in said),
            ),
            said[0].last if len({each.last for each in said}) == 1 else -1,
        )
    )
