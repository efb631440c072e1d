"""Why each part of a tensor goes the way it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from math import prod
from typing import Any

from dynatrain import _native
from dynatrain._errors import LayoutError
from dynatrain.door import looking, wrong_argument
from dynatrain.given import text, whole
from dynatrain.layout import Layout
from dynatrain.planning.plan import Maps, checked_world, maps_of
from dynatrain.planning.tensors import Model, TensorSpec, checked_model
from dynatrain.planning.topologies import Topology
from dynatrain.report import SCHEMA_VERSION

_Box = tuple[list[int], list[int]]


@dataclass
class Transfer:
    """A box that one rank has or gets.

    Attributes:
        begin: its first element, by dimension.
        end: one past its last element.
        src: who has it.
        dst: who gets it; the same rank where it has it already.
        why: why this one sends it.
    """

    begin: list[int]
    end: list[int]
    src: int
    dst: int
    why: str


@dataclass
class CellOfTensor:
    """A box on which owners and needers are the same everywhere.

    Attributes:
        begin: its first element, by dimension.
        end: one past its last element.
        owners: ranks that have it before.
        needers: ranks that have it after.
    """

    begin: list[int]
    end: list[int]
    owners: list[int]
    needers: list[int]


@dataclass
class Explanation:
    """What a switch does with one tensor, seen from one rank.

    Attributes:
        tensor: its name and slot, as in ``layers.0.weight|param``.
        rank: whose view it is.
        shape: of the whole tensor.
        dtype: torch's name of its element type.
        cells: those that the rank owns or needs.
        transfers: what it keeps, sends and receives of them.
    """

    tensor: str
    rank: int
    shape: list[int]
    dtype: str
    cells: list[CellOfTensor] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``; docs/reference/json.md has the schema."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def explain(
    layouts: tuple[Layout | str, Layout | str],
    tensors: Sequence[TensorSpec] | Model,
    tensor: str,
    rank: int,
    topology: Topology | None = None,
) -> Explanation:
    """Says who has, who needs and who sends each part of a tensor, and why.

    Args:
        layouts: before and after.
        tensors: as in ``dynatrain.plan``.
        tensor: the parameter's name, or that with a slot: ``lm_head.weight|exp_avg``.
        rank: whose view it is, of the larger world.
        topology: the links; by default all ranks are on one node.

    Raises:
        LayoutError: as ``dynatrain.plan``; there is no such tensor or rank.
    """
    with looking("explain", "layouts", layouts, "two layouts, before and after"):
        before, after = layouts
    source, target = checked_world(before), checked_world(after)
    model = checked_model("explain", tensors)
    if topology is not None and type(topology) is not Topology:
        raise wrong_argument("explain", "topology", topology, "a dynatrain.Topology, or None")
    maps = maps_of(source, target, model, topology or Topology())
    number = whole(rank)
    if number is None or not 0 <= number < maps.num_ranks:
        raise wrong_argument("explain", "rank", rank, f"a rank from 0 to {maps.num_ranks - 1}")
    asked = text(tensor)
    if asked is None:
        raise wrong_argument("explain", "tensor", tensor, "the name of a parameter")
    spec, name = _found(model, asked)
    part = maps.plan_of(number).part_of([name])
    cells = [
        CellOfTensor(*cell)
        for cell in _native.cells_of(maps.source, maps.target, name)
        if number in cell[2] or number in cell[3]
    ]
    transfers = [
        Transfer(begin, end, src, dst, _why(maps, _holding(cells, begin), (src, dst), (begin, end)))
        for _, begin, end, src, dst in part.moves()
    ]
    transfers.sort(key=lambda each: (each.dst, each.begin, each.src))
    slot = next(each for each in model.slots if each.name == name.rpartition("|")[2])
    return Explanation(name, number, list(spec.shape), slot.dtype or spec.dtype, cells, transfers)


def _found(model: Model, tensor: str) -> tuple[TensorSpec, str]:
    """The parameter, and the full name of the state that is asked for."""
    fqn, _, slot = tensor.partition("|")
    specs = {spec.fqn: spec for spec in model.tensors}
    slots = [each.name for each in model.slots]
    if fqn in specs and (slot or slots[0]) in slots:
        return specs[fqn], f"{fqn}|{slot or slots[0]}"
    near = ", ".join(get_close_matches(fqn, specs, 3, 0.4)) or next(iter(specs))
    raise LayoutError(
        f"plan: the model has no tensor {tensor!r}\n"
        f"  expected a parameter such as {near}, with |{', |'.join(slots)} for its states\n"
        "  nothing was planned\n  give the name of one"
    )


def _holding(cells: Sequence[CellOfTensor], begin: Sequence[int]) -> CellOfTensor:
    """The cell that an element is in; a move that joins several has the parties of each of them."""
    return next(
        cell
        for cell in cells
        if all(low <= at < high for low, at, high in zip(cell.begin, begin, cell.end, strict=True))
    )


def _why(maps: Maps, cell: CellOfTensor, ends: tuple[int, int], box: _Box) -> str:
    src, dst = ends
    if src == dst:
        return "it has it already"
    owners = cell.owners
    told = "the only owner"
    if len(owners) > 1:
        node = _node(maps, dst)
        near = [owner for owner in owners if _node(maps, owner) == node]
        among = near or owners
        where = f" of {len(owners)}"
        if maps.nodes:
            where += f", {len(near)} on its node" if near else ", none on its node"
        told = f"one of the owners{where}"
        if len(among) > 1:
            told += "; they take turns"
        if _size(box) < _size((cell.begin, cell.end)):
            told += ", by parts, so that all send alike"
    return told


def _node(maps: Maps, rank: int) -> int:
    return maps.nodes[rank] if maps.nodes else 0


def _size(box: _Box) -> int:
    return prod(high - low for low, high in zip(*box, strict=True))
