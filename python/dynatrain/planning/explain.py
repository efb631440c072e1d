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
from dynatrain.planning.passes import Maps, Pass, maps_of
from dynatrain.planning.plan import checked_world
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
        in_pass: 1, or 2 of what receivers hand on to each other.
    """

    begin: list[int]
    end: list[int]
    src: int
    dst: int
    why: str
    in_pass: int = 1


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


def explain(  # noqa: PLR0913 - what moves where, and which part of it
    layouts: tuple[Layout | str, Layout | str],
    tensors: Sequence[TensorSpec] | Model,
    tensor: str,
    rank: int,
    topology: Topology | None = None,
    *,
    disjoint: bool = False,
) -> Explanation:
    """Says who has, who needs and who sends each part of a tensor, and why.

    Args:
        layouts: before and after.
        tensors: as in ``dynatrain.plan``.
        tensor: the parameter's name, or that with a slot: ``lm_head.weight|exp_avg``.
        rank: whose view it is, of the larger world.
        topology: the links; by default all ranks are on one node.
        disjoint: as in ``dynatrain.plan``.

    Raises:
        LayoutError: as ``dynatrain.plan``; there is no such tensor or rank.
    """
    with looking("explain", "layouts", layouts, "two layouts, before and after"):
        before, after = layouts
    source, target = checked_world(before), checked_world(after)
    model = checked_model("explain", tensors)
    if topology is not None and type(topology) is not Topology:
        raise wrong_argument("explain", "topology", topology, "a dynatrain.Topology, or None")
    if type(disjoint) is not bool:
        raise wrong_argument("explain", "disjoint", disjoint, "True or False")
    maps = maps_of(source, target, model, topology or Topology(), disjoint)
    number = whole(rank)
    if number is None or not 0 <= number < maps.num_ranks:
        raise wrong_argument("explain", "rank", rank, f"a rank from 0 to {maps.num_ranks - 1}")
    asked = text(tensor)
    if asked is None:
        raise wrong_argument("explain", "tensor", tensor, "the name of a parameter")
    spec, name = _found(model, asked)
    cells = [cell for cell in _cells(maps, name) if number in cell.owners + cell.needers]
    transfers = [
        transfer
        for in_pass, of_pass in enumerate(maps.passes(), 1)
        for transfer in _transfers(maps, of_pass, in_pass, number, name)
    ]
    transfers.sort(key=lambda each: (each.in_pass, each.dst, each.begin, each.src))
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
    if any(spec.has_experts for spec in model.tensors):
        near += " (all experts of a layer are one tensor)"
    raise LayoutError(
        f"plan: the model has no tensor {tensor!r}\n"
        f"  expected a parameter such as {near}, with |{', |'.join(slots)} for its states\n"
        "  nothing was planned\n  give the name of one"
    )


def _cells(maps: Maps | Pass, name: str) -> list[CellOfTensor]:
    return [CellOfTensor(*cell) for cell in _native.cells_of(maps.source, maps.target, name)]


def _transfers(maps: Maps, of_pass: Pass, in_pass: int, rank: int, name: str) -> list[Transfer]:
    """What a rank does with a tensor in one pass."""
    cells = _cells(of_pass, name)
    found = []
    for _, begin, end, src, dst in of_pass.plans[rank].part_of([name]).moves():
        if in_pass == 1:
            why = _why(maps, _holding(cells, begin), (src, dst), (begin, end))
        else:
            why = "handed on: it was sent this part"
        found.append(Transfer(begin, end, src, dst, why, in_pass))
    return found


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
        near = [owner for owner in owners if maps.node_of(owner) == maps.node_of(dst)]
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


def _size(box: _Box) -> int:
    return prod(high - low for low, high in zip(*box, strict=True))
