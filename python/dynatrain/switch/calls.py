"""Calls that all ranks make together, and the reasons to refuse one before anything happens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from dynatrain import by_rank, words
from dynatrain._errors import Error, InternalError, LayoutError, of_family
from dynatrain.data import ElasticLoader
from dynatrain.generation.control import Trouble, raise_alike, troubles_by_rank
from dynatrain.generation.rendezvous import Meeting
from dynatrain.given import described
from dynatrain.layout import Layout
from dynatrain.sampler import ElasticSampler

#: The target of a call that was given none.
UNREADABLE = "what is no layout"
_UNCHANGED = "nothing was moved; the source state is intact"


@words.record
@dataclass(frozen=True)
class Call:
    """What one rank brings to a meeting.

    Attributes:
        operation: ``switch``, ``prepare``, ``check``, ``commit`` or a question; ``attend`` for a
            rank that idles.
        layout: text form of the target.
        step: completed steps.
        ready: whether the rank holds the target prepared.
        connected: whether its union communicator stands.
        cursors: where its kept loaders stand, in global batches; empty on a rank that idles.
        names: new names of tensors that it was given, by their names, sorted.
        places: keys of the seats that it has its place in, and of what it knows of others to take.
        problem: what it refuses with, or None.
        is_held: whether it brings what it holds of a state, which no mesh tells of.
        epoch: of the world that it is in or idles beside; None where that is yet to come.
    """

    operation: str
    layout: str
    step: int
    ready: bool
    connected: bool
    cursors: Mapping[str, int] = field(default_factory=dict)
    names: tuple[tuple[str, str], ...] = ()
    places: tuple[str, ...] = ()
    problem: Trouble | None = None
    is_held: bool = False
    epoch: int | None = None

    @property
    def moment(self) -> str:
        """What is called and when, in words; nothing on a rank that waits for calls of others."""
        if self.operation == "attend":
            return ""
        return f"{self.operation} {self.layout} after {self.step} steps"

    def __str__(self) -> str:
        names = f", names={dict(self.names)}" if self.names else ""
        return (self.moment or self.operation) + names


@dataclass(frozen=True)
class Met:
    """A meeting in which nobody refused.

    Attributes:
        name: of the meeting, unique within the session and the same on every rank.
        calls: what each rank brought.
    """

    name: str
    calls: Sequence[Call]

    @property
    def connected(self) -> bool:
        """Whether the groups of all ranks stand."""
        return all(call.connected for call in self.calls)

    @property
    def ready(self) -> bool:
        """Whether every rank holds the target prepared, over links that stand."""
        return self.connected and all(call.ready for call in self.calls)

    @property
    def holders(self) -> list[int]:
        """Ranks that bring what they hold of a state, and have no live one."""
        return [rank for rank, call in enumerate(self.calls) if call.is_held]

    def has_places(self, key: str) -> bool:
        """Whether every rank has its place in the seats with this key, or idles there."""
        return all(key in call.places for call in self.calls)


class Meets(Protocol):
    """How all ranks meet."""

    def meet(self, payload: bytes, moment: str = "", *, is_dated: bool = True) -> Meeting:
        """See :meth:`dynatrain.generation.rendezvous.Rendezvous.meet`."""


class Calls:
    """Meetings in which every rank learns what all others called."""

    def __init__(self, ranks: Meets) -> None:
        self._ranks = ranks

    def meet(self, own: Call, problem: Error | None = None, *, is_dated: bool = True) -> Met:
        """Meets all ranks.

        Args:
            own: what this rank brings.
            problem: what this rank refuses with, or None.
            is_dated: whether ``own.step`` tells this call from later ones of the same kind.

        Raises:
            TransportError: ranks are missing.
            LayoutError: the calls differ.
            InternalError: the ranks are in different worlds.
            An error of the kind of the lowest rank that refuses. Either is the same on every rank.
        """
        if problem is not None:
            own = replace(own, problem=Trouble.of(problem))
        with _decided_everywhere() if own.operation == "commit" else nullcontext():
            meeting = self._ranks.meet(words.encode(own), own.moment, is_dated=is_dated)
            call_of = {payload: words.decode(payload) for payload in set(meeting.payloads)}
            calls: list[Call] = [call_of[payload] for payload in meeting.payloads]
        _check_one_world(calls)
        _check_same(calls)
        _check_cursors(calls)
        raise_alike("the call", problem, troubles_by_rank([call.problem for call in calls]))
        return Met(meeting.name, calls)


@contextmanager
def _decided_everywhere() -> Iterator[None]:
    """Says of what fails in a vote that others may have gone on: two worlds must never train."""
    try:
        yield
    except Error:
        raise
    except Exception as error:
        raise InternalError(
            f"session: this rank could not learn how the vote ended, {described(error)}\n"
            "  expected only the store and other ranks to fail there\n"
            "  this rank has switched nothing and its state is intact, but others may have\n"
            "  end the job and start it from its last checkpoint; if memory had not run out, "
            "please report this as a bug, with the error above this one"
        ) from error


def _check_one_world(calls: Sequence[Call]) -> None:
    """Raises where ranks train in different worlds; nothing that they do together would be true."""
    epochs = {call.epoch for call in calls if call.epoch is not None}
    if len(epochs) > 1:
        lines = by_rank.lines({rank: f"epoch {call.epoch}" for rank, call in enumerate(calls)})
        raise InternalError(
            f"session: the ranks are in different worlds\n{lines}\n"
            "  expected all of them to have installed what the last vote decided\n"
            f"  {_UNCHANGED}, but it is not one state with that of the others\n"
            "  end the job and start it from its last checkpoint; please report this as a bug"
        )


def _check_same(calls: Sequence[Call]) -> None:
    # A rank that waits for calls joins any, but no vote: it may have left the switch before.
    is_vote = any(call.operation == "commit" for call in calls)
    # What a rank cannot read of its own arguments is its problem, which all hear.
    asked = {
        (call.operation, call.layout, call.step, call.names)
        for call in calls
        if (is_vote or call.operation != "attend") and call.layout != UNREADABLE
    }
    if len(asked) > 1:
        lines = by_rank.lines({rank: str(call) for rank, call in enumerate(calls)})
        raise LayoutError(
            f"session: the ranks made different calls\n{lines}\n"
            f"  expected one call, layout and step on all ranks\n  {_UNCHANGED}\n"
            "  make the same call on every rank between the same two steps"
        )


def cursors_of(keep: Mapping[str, Any]) -> dict[str, int]:
    """Where kept loaders and samplers stand, by name."""
    return {
        name: int(item.state_dict()["step"])
        for name, item in keep.items()
        if isinstance(item, ElasticLoader | ElasticSampler)
    }


def put_back(keep: Mapping[str, Any], cursors: Mapping[str, int]) -> None:
    """Has kept loaders and samplers go on from where they stood."""
    for name, step in cursors.items():
        keep[name].load_state_dict({**keep[name].state_dict(), "step": step})


def _check_cursors(calls: Sequence[Call]) -> None:
    present = [(rank, call.cursors) for rank, call in enumerate(calls) if call.cursors]
    if all(cursors == present[0][1] for _, cursors in present):
        return
    lines = by_rank.lines({rank: str(dict(cursors)) for rank, cursors in present})
    raise LayoutError(
        f"session: kept loaders stand at different places\n{lines}\n"
        f"  expected as many global batches taken on all ranks\n  {_UNCHANGED}\n"
        "  take a batch on every rank in every step, also on pipeline stages that do not use it"
    )


def check_target(layout: Layout, num_ranks: int, keep: Mapping[str, Any]) -> None:
    """Raises when no rank of the job, or a kept object of this one, can go to ``layout``.

    Kept objects that have ``check_layout(layout)`` may refuse by raising.
    """
    if layout.world_size > num_ranks:
        raise LayoutError(
            f"session: {layout} needs {layout.world_size} ranks\n"
            f"  the job has {num_ranks}\n  {_UNCHANGED}\n"
            "  choose sizes whose product is at most the number of ranks"
        )
    for name, item in keep.items():
        if hasattr(item, "check_layout"):
            try:
                item.check_layout(layout)
            except Error:
                raise
            except Exception as error:
                raise of_family(error, f"check_layout of the kept object {name!r}") from error
