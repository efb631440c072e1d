"""Param groups: options follow the parameter's name, whichever stage or group it is in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.distributed.tensor import DTensor

from dynatrain._errors import LayoutError
from dynatrain.adapters.port import Part
from dynatrain.adapters.torch import trees
from dynatrain.adapters.torch.codec import readable
from dynatrain.adapters.torch.identity import Copies
from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.adapters.torch.meaning import difference
from dynatrain.adapters.torch.optimizers import OF_PARAMETERS, Holder, Role, beside_slots

_INTACT = "nothing was switched; the source state is intact"


#: Role and number of an optimizer, number of a group of it, and key of an option.
Place = tuple[Role, int, int, str]


@readable
@dataclass(frozen=True)
class Group:
    """Options of a group, without what belongs to its parameters, and all FQNs of these."""

    options: dict[str, Any]
    fqns: list[str]


@readable
@dataclass(frozen=True)
class Held:
    """What one optimizer of one rank hands over besides tensors and values of its parameters.

    Attributes:
        role: see :class:`dynatrain.adapters.torch.optimizers.Holder`.
        kind: full name of its class.
        groups: its groups, in order.
        beside: what it keeps for all its parameters together.
    """

    role: Role
    kind: str
    groups: list[Group]
    beside: dict[str, Any]

    @property
    def fqns(self) -> list[str]:
        """FQNs of its parameters, in the order of the groups."""
        return [fqn for group in self.groups for fqn in group.fqns]


@dataclass(frozen=True)
class Origin:
    """Where the options of a parameter come from."""

    held: Held
    place: int
    rank: int

    @property
    def options(self) -> dict[str, Any]:
        """Options of its group."""
        return self.held.groups[self.place].options


def read_groups(live: LiveTensors) -> list[Held]:
    """What every optimizer of a state hands over."""
    return [
        Held(
            holder.role,
            holder.kind,
            [Group(_options(group), _fqns(live, group)) for group in holder.groups],
            beside_slots(holder),
        )
        for holder in live.holders
    ]


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in OF_PARAMETERS}


def _fqns(live: LiveTensors, group: Mapping[str, Any]) -> list[str]:
    return [fqn for param in group["params"] for fqn in live.fqns(param)]


class Origins:
    """The groups of all ranks of the source, by role and FQN.

    Raises:
        LayoutError: two ranks have different options for one parameter.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        #: Where the ranks that handed a value over have it first, by its id.
        self.places: dict[int, Place] = {}
        for part in parts:
            self._note_places(part.value)
        self._of: dict[tuple[Role, str], Origin] = {}
        same: set[tuple[int, int]] = set()
        for part in parts:
            for held in part.value:
                for place, group in enumerate(held.groups):
                    for fqn in group.fqns:
                        self._add(fqn, Origin(held, place, part.ranks[0]), same)

    def _note_places(self, of_rank: Sequence[Held]) -> None:
        counts: Counter[Role] = Counter()
        for held in of_rank:
            for number, group in enumerate(held.groups):
                for key, value in group.options.items():
                    place = (held.role, counts[held.role], number, key)
                    self.places.setdefault(id(value), place)
            counts[held.role] += 1

    def _add(self, fqn: str, origin: Origin, same: set[tuple[int, int]]) -> None:
        first = self._of.setdefault((origin.held.role, fqn), origin)
        pair = id(first.options), id(origin.options)
        if first is origin or pair in same:
            return
        where = difference(first.options, origin.options)
        if where is not None:
            raise LayoutError(
                f"adapters: ranks {first.rank} and {origin.rank} have different options for "
                f"{fqn!r}\n  {where.removeprefix('.')}\n  {_INTACT}\n"
                "  set them alike on all ranks first; a learning rate that follows a metric wants "
                "the same metric everywhere"
            )
        same.add(pair)

    def of(self, holder: Holder, fqns: Sequence[str]) -> dict[str, Origin]:
        """The origin of each of ``fqns`` that the source has in an optimizer of this role."""
        found = ((fqn, self._of.get((holder.role, fqn))) for fqn in fqns)
        return {fqn: origin for fqn, origin in found if origin is not None}

    def all_of(self, holder: Holder, live: LiveTensors) -> list[Held]:
        """The source's optimizers that had parameters of this one, or its place if none had."""
        fqns = [fqn for param in holder.params() for fqn in live.fqns(param)]
        held = {id(o.held): o.held for o in self.of(holder, fqns).values()}
        return list(held.values()) or list(self._at_place(holder))

    def _at_place(self, holder: Holder) -> Iterator[Held]:
        for part in self._parts:
            alike = [held for held in part.value if held.role == holder.role]
            yield from alike[holder.index : holder.index + 1]


def check_groups(live: LiveTensors, origins: Origins) -> None:
    """Holds groups of the source against the optimizers of ``live``; changes nothing.

    Raises:
        LayoutError: an optimizer is of another class, or a group joins different options.
    """
    for holder in live.holders:
        for held in origins.all_of(holder, live):
            _check_kind(holder, held)
        for group in holder.groups:
            fqns = _fqns(live, group)
            known = origins.of(holder, fqns)
            _check_common(holder, known)
            for origin in list(known.values())[:1]:
                cut = any(isinstance(param, DTensor) for param in group["params"])
                _check_by_place(holder, origin.held.groups[origin.place], fqns, cut=cut)


def _check_kind(holder: Holder, held: Held) -> None:
    if held.kind != holder.kind:
        raise LayoutError(
            f"adapters: {holder.words} of the target is a {holder.kind}\n"
            f"  expected a {held.kind}, as in the source: another class asks for other state\n"
            f"  {_INTACT}\n"
            "  make the same optimizer in build for every layout"
        )


def _check_common(holder: Holder, origins: Mapping[str, Origin]) -> None:
    known = list(origins.items())
    same: set[int] = set()
    for fqn, origin in known[1:]:
        first_fqn, first = known[0]
        if origin.options is first.options or id(origin.options) in same:
            continue
        where = difference(first.options, origin.options)
        if where is not None:
            raise LayoutError(
                f"adapters: parameters {first_fqn!r} and {fqn!r} share a group of the target's "
                f"{holder.words}, but had different options in the source\n"
                f"  {where.removeprefix('.')}\n  {_INTACT}\n"
                "  make the same param groups in build for every layout"
            )
        same.add(id(origin.options))


def _check_by_place(holder: Holder, source: Group, fqns: list[str], *, cut: bool) -> None:
    """Refuses options that mean something only beside the parameters that the group had."""
    defaults = getattr(holder.keeper, "defaults", {})
    for key, value in source.options.items():
        by_place = (
            key not in defaults
            and isinstance(value, trees.SEQUENCES)
            and len(value) == len(source.fqns) > 1
        )
        tensor = trees.uncut(value)
        if (by_place and fqns != source.fqns) or (tensor is not None and cut):
            raise LayoutError(
                f"adapters: a group of {holder.words} keeps {key!r}, which goes by the place of "
                f"its {len(source.fqns)} parameters or is cut as they are\n"
                f"  the group has {len(fqns)} parameters in the target"
                f"{', sharded ones among them' if cut else ''}\n  {_INTACT}\n"
                "  keep it in optimizer.state[param], where it follows its parameter"
            )


def take_groups(live: LiveTensors, origins: Origins) -> None:
    """Gives every group of ``live`` the options that its parameters had.

    What groups of the source share, groups of the target share.
    """
    copies = Copies(live.state, origins.places)
    for holder in live.holders:
        for number, group in enumerate(holder.groups):
            for key, value in _options_for(live, origins, holder, number).items():
                group[key] = copies.of(value, group.get(key))


def _options_for(
    live: LiveTensors, origins: Origins, holder: Holder, number: int
) -> Mapping[str, Any]:
    """What the parameters of a group had; what the group at its place had where it has none."""
    for origin in origins.of(holder, _fqns(live, holder.groups[number])).values():
        return origin.options
    for held in origins.all_of(holder, live):
        if number < len(held.groups):
            return held.groups[number].options
    return {}
