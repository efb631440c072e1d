"""What a coordinator publishes of an attempt, and what members read of it; whose errors are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed import DistError

from dynatrain import _native
from dynatrain._errors import BudgetError, LayoutError, TransportError
from dynatrain.generation.members import Member, Members
from dynatrain.generation.seats import Seats
from dynatrain.layout import Layout

#: Lost members that a line names.
_MOST_NAMED = 8
#: How backends name themselves in errors of torch that have no class of their own.
_BACKENDS = ("gloo", "nccl", "connection")


class Holding(IntEnum):
    """What a member has of the version with which a recovery begins."""

    ABSENT = 0
    NOTHING = 1
    LIVE = 2
    SNAPSHOT = 3  #: it can go back to it, or has a checkpoint of it


class UncoveredError(Exception):
    """A version of the state cannot be put together from what members hold of it.

    Attributes:
        may_be_the_target: whether what is wrong may be the target's, so that another one might do.
        then: what is asked next, in words; empty where nothing is left.
    """

    def __init__(self, message: str, *, may_be_the_target: bool = False, then: str = "") -> None:
        super().__init__(message)
        self.may_be_the_target = may_be_the_target
        self.then = then


class Place(NamedTuple):
    """Where a member runs.

    Attributes:
        host: what people call it: a machine's name, or a container's.
        machine: the same for all members of one machine, whichever containers they are in.
    """

    host: str
    machine: str


def published(description: str, places: Mapping[int, Place]) -> str:
    """An attempt as the coordinator publishes it: its description, and where members run."""
    return json.dumps([description, [(member, *place) for member, place in places.items()]])


def read_published(text: bytes) -> tuple[dict[str, Any], dict[int, Place]]:
    """The description of an attempt, and the places of members by their ids."""
    line, places = json.loads(text)
    return _native.membership_description(line), {id_: Place(*place) for id_, *place in places}


def members_of(description: dict[str, Any]) -> list[int]:
    """Who takes part in an attempt, by rank: the target's members, then others of the source.

    Those who bring nothing but copies come last.
    """
    source, target = description["source"]["members"], description["target"]["members"]
    there = _holdings(description)
    others = [each for each in source if there.get(each, Holding.LIVE) != Holding.ABSENT]
    return [*dict.fromkeys([*target, *others, *description["former"]])]


def met_in(
    description: dict[str, Any], places: Mapping[int, Place], own: int, store: Store
) -> Members:
    """Those who take part in an attempt as they meet, of whom this process is ``own``."""
    ids = members_of(description)
    name = f"{description['target']['epoch']}.{description['attempt']}"
    each = (Member(str(id_), places[id_].machine, called=places[id_].host) for id_ in ids)
    return Members(name, ids.index(own), tuple(each), PrefixStore(name, store))


def seats_of(description: dict[str, Any]) -> Seats | None:
    """Who has which part of the source; None where there is none.

    In a recovery the places of members that are lost, or hold another version, are nobody's.
    """
    source, there = description["source"], _holdings(description)
    if not source["members"]:
        return None
    hold = {each for each in source["members"] if there.get(each, Holding.LIVE) >= Holding.LIVE}
    ids = tuple(str(each) if each in hold else "" for each in source["members"])
    return Seats(Layout.parse(source["layout"]), ids)


def summary_of(attempt: int, description: dict[str, Any], places: Mapping[int, Place]) -> str:
    """What an attempt is to do."""
    source, target = (description[side]["layout"] for side in ("source", "target"))
    version = f" of step {description['target']['version']}" if description["is_recovery"] else ""
    source = source or ("a checkpoint" if version else "nothing")
    why = description["cold_because"].partition("\n")[0]
    lost = lost_of(description, places)
    without = f", without {lost}" if lost else ""
    where = f", in the stop: it could not be prepared beside training ({why})" if why else ""
    return f"attempt {attempt}: {source}{version} -> {target}{without}{where}"


def host_in(places: Mapping[int, Place], member: int) -> str:
    """The host of a member, in words where it is not known."""
    return places[member].host if member in places else "a host that is not known"


def lost_of(description: dict[str, Any], places: Mapping[int, Place]) -> str:
    """The members of a halted world that are there no more, in words; empty where all are."""
    source, there = description["source"], _holdings(description)
    lost = [
        f"rank {rank} (member {member}, {host_in(places, member)})"
        for rank, member in enumerate(source["members"])
        if there.get(member, Holding.LIVE) == Holding.ABSENT
    ]
    more = f" and {len(lost) - _MOST_NAMED} more" if len(lost) > _MOST_NAMED else ""
    return ", ".join(lost[:_MOST_NAMED]) + more


def _holdings(description: dict[str, Any]) -> dict[int, Holding]:
    """By member; empty for a planned change, in which each holds all that it should."""
    source, target = description["source"]["members"], description["target"]["members"]
    each = dict.fromkeys([*source, *target])
    return dict(zip(each, map(Holding, description["holdings"]), strict=False))


def is_hole(error: LayoutError) -> bool:
    """Whether a part of the source is nobody's, so that no target could be made of it."""
    return "have no owner" in str(error)


def is_refusal(error: BaseException) -> bool:
    """Whether an error in the stop tells that the target cannot be taken, at whichever step."""
    if isinstance(error, LayoutError):
        return not error.is_momentary
    return isinstance(error, BudgetError)


def is_of_communication(error: BaseException) -> bool:
    """Whether an error tells that a message between ranks has failed, as far as can be seen."""
    if isinstance(error, DistError | TransportError | ConnectionError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(name in text for name in _BACKENDS)
