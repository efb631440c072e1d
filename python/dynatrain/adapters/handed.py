"""What an adapter is asked for and handed of a state: slots, storages, values."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynatrain import _native
from dynatrain.layout import Layout

#: A fact about optimizer slots, in the adapter's own words: ``("on host", "step")``. It is told to
#: other ranks: plain values only.
SlotNote = tuple[Hashable, ...]


@dataclass(frozen=True)
class Storages:
    """The memory behind the tensors of one inventory, as blocks that are taken and freed whole.

    Attributes:
        each: the storages, of the framework's own class; one for all tensors that lie in it.
        keys: what tells each from all others of this process.
        size_bytes: what each has when there is memory.
        of_tensor: the number of the storage of each tensor, by name, and where it begins in it.
        fixed: numbers of those that cannot be freed.
        empty: numbers of those that have no memory until a run gives it.
        gaps: numbers of those of which some bytes are no tensor's: zeros, as of fresh memory.
    """

    each: Sequence[Any]
    keys: Sequence[Hashable]
    size_bytes: Sequence[int]
    of_tensor: Mapping[str, tuple[int, int]]
    fixed: frozenset[int] = frozenset()
    empty: frozenset[int] = frozenset()
    gaps: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Slots:
    """The optimizer slots of a source, as all its ranks hold them together.

    Attributes:
        source: names, shapes and dtypes.
        notes: what the inventories of all ranks noted.
    """

    source: _native.ShardMap
    notes: frozenset[SlotNote] = frozenset()


@dataclass(frozen=True)
class Values:
    """What one rank hands over besides tensors of the map, by name.

    Attributes:
        shared: what all ranks that have the name hold together, such as the state of a scheduler.
            Each distinct content of a name travels once, however many ranks hold it.
        per_rank: what belongs to this rank's place, such as a random stream.
    """

    shared: Mapping[str, Any] = field(default_factory=dict)
    per_rank: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One distinct content and the ranks that handed it over, in ascending order."""

    value: Any
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Published:
    """The values of all ranks of the source, by name.

    The parts of a name are ordered by their lowest rank. Contents are told apart by what
    the adapter's ``encode`` makes of them: several parts may still mean the same. Ranks are those
    of the job, which are those of any layout as well. Where ranks hold different contents of a name
    of ``per_rank``, each stays on its rank: there are two parts then, the one of this rank, if any,
    and one without value and ranks for all others.

    Attributes:
        told_apart: names of ``per_rank`` of which ranks that differ in tp alone held different
            contents.
        source: layout of the ranks that published; None where that is of no matter.
        target: layout that they are for; None where that is of no matter.
    """

    shared: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    per_rank: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    told_apart: frozenset[str] = frozenset()
    source: Layout | None = None
    target: Layout | None = None
