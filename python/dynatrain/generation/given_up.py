"""A meeting that was given up: who was missing, and what each rank that asks is told of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dynatrain import words
from dynatrain._errors import TransportError
from dynatrain.generation.joined import Entry


@words.record
@dataclass(frozen=True)
class Silent:
    """What ranks are told of each other behind a call that failed.

    Attributes:
        ranks: those that have not said that they live.
        left: why ranks have left the call by themselves, in words.
    """

    ranks: tuple[int, ...]
    left: Mapping[int, str]

    def named(self, error: TransportError) -> TransportError:
        """The same error, which names who it was; as it is where nobody is to be named."""
        lines = [f"  rank {rank} has left the call: {why}" for rank, why in self.left.items()]
        if self.ranks:
            which = f"rank {self.ranks[0]}" if len(self.ranks) == 1 else f"ranks {[*self.ranks]}"
            lines.append(f"  not heard of since: {which}; dead, stopped, or did not notice")
        if not lines:
            return error
        first, *rest = str(error).splitlines() or [""]
        suspects = self.ranks or tuple(self.left)
        peer = suspects[0] if len(suspects) == 1 else error.peer
        text = "\n".join([first, *lines, *rest])
        named = TransportError(text, peer=peer, stage=error.stage, retryable=error.retryable)
        named.__cause__ = error.__cause__
        return named


@words.record
@dataclass(frozen=True)
class GivenUp:
    """What the rank that gave a meeting up has left for the others.

    Attributes:
        moments: of the calls that had been made, in words.
        absent: the ranks that had not come.
        silent: those of them that nobody has heard of since the last call failed.
        seconds: how long it waited.
        behind_a_failure: whether a call had failed since the last meeting.
    """

    moments: tuple[str, ...]
    absent: tuple[int, ...]
    silent: tuple[int, ...]
    seconds: float
    behind_a_failure: bool

    @staticmethod
    def of(
        came: Mapping[int, Entry], num_ranks: int, heard: Collection[int], seconds: float
    ) -> GivenUp:
        """Gives up on all but those that ``came``, by rank.

        They are told apart by who was ``heard`` of since the last call failed: nobody was where
        none has failed.
        """
        absent = tuple(rank for rank in range(num_ranks) if rank not in came)
        silent = tuple(rank for rank in absent if rank not in heard) if heard else ()
        moments = {entry.moment for entry in came.values()} - {""}
        return GivenUp(tuple(sorted(moments)), absent, silent, seconds, bool(heard))

    def is_over(self, rank: int, moment: str, *, is_dated: bool) -> bool:
        """Whether the call that ``rank`` makes at ``moment``, having come by now, is given up.

        It is for all ranks that had come, and for one that comes later with the same call. Where no
        moment is told from another and no call had failed, a rank may have made none then.
        """
        if rank not in self.absent:
            return True
        return moment in self.moments and (is_dated or self.behind_a_failure)

    def error(self, name: str, rank: int, num_ranks: int) -> TransportError:
        """What ``rank`` is told of the meeting called ``name``."""
        absent = [each for each in self.absent if each != rank]
        silent = [each for each in self.silent if each != rank]
        suspects = silent or absent
        called = f": {' or '.join(self.moments[:2])}" if self.moments else ""
        missing = f"ranks {absent} did not arrive" if absent else "it alone was missing"
        if rank in self.absent:
            said = f"this rank came after the others had given the call up; {missing}"
            advice = "call again: the next call of this rank meets the next one of the others"
        else:
            said = f"a collective call was given up: {missing}"
            advice = (
                "make the same call on every rank between the same two steps; raise timeout_s "
                "where ranks are only late"
            )
        return TransportError(
            f"session: {said}\n"
            f"  expected all {num_ranks} ranks within {self.seconds:g} s{called} (meeting {name})\n"
            f"{self._told_apart(absent, silent)}"
            "  nothing was moved; the source state is intact and training may go on\n"
            f"  {advice}",
            peer=suspects[0] if len(suspects) == 1 else -1,
        )

    @staticmethod
    def _told_apart(absent: Collection[int], silent: Collection[int]) -> str:
        """Lines on who is suspected, where a call has failed before."""
        if not silent:
            return ""
        one = len(silent) == 1
        lines = f"  {_named(silent)} not been heard of since the last call failed: "
        lines += "it has died or is stopped" if one else "they have died or are stopped"
        living = [rank for rank in absent if rank not in silent]
        if living:
            lines += f"\n  {_named(living)} been, but did not call again in time"
        return f"{lines}\n"


def _named(ranks: Collection[int]) -> str:
    return f"rank {min(ranks)} has" if len(ranks) == 1 else f"ranks {sorted(ranks)} have"
