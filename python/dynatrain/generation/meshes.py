"""The device meshes of one rank in a world, over groups that the world's ranks make themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from dynatrain import axes as axes_of
from dynatrain._errors import InternalError
from dynatrain._torch_private.groups import groups_of_meshes
from dynatrain.generation.world_groups import WorldGroups
from dynatrain.layout import Layout

#: Dimensions of a mesh that stand for several axes: its children, beside those of one axis.
FLATTENED = {"dp_shard_cp": ("dp_shard", "cp"), "dp": ("dp_replicate", "dp_shard")}


class Meshes:
    """The device meshes of one rank in a layout; made by the ranks of the layout alone.

    Args:
        layout: the layout.
        device_type: ``cpu`` or ``cuda``.
        groups: makes their groups; it owns them.
        default: torch's default group for them, or None where the job has one for all worlds.
    """

    def __init__(
        self,
        layout: Layout,
        device_type: str,
        groups: WorldGroups,
        default: dist.ProcessGroup | None = None,
    ) -> None:
        self.groups = groups
        self.default = default
        self.mesh = _make_mesh(device_type, _sizes(layout), groups, "mesh")
        for name, axes in _flattened(layout).items():
            make = partial(groups.make_of_numbers, f"mesh/{name}")
            with groups_of_meshes(make, groups.number_of(groups.rank)):
                self.mesh[axes]._flatten(name)
        experts = _expert_sizes(layout)
        self.expert_mesh = _make_mesh(device_type, experts, groups, "experts") if experts else None


def make_groups_ahead(layout: Layout, groups: WorldGroups) -> None:
    """Makes the groups that :class:`Meshes` and most scripts ask for, in any thread. Collective."""
    meshes = {"mesh": _sizes(layout), "experts": _expert_sizes(layout)}
    for purpose, sizes in meshes.items():
        for axis, ranks in _along(sizes, groups.rank).items() if sizes else ():
            groups.make_ahead(f"{purpose}/{axis}", ranks)
    for name, axes in _flattened(layout).items():
        groups.make_ahead(f"mesh/{name}", axes_of.ranks_along(layout, groups.rank, axes))
    if len(axes_of.enabled(layout, layout.order)) > 1:
        groups.make_ahead("axes", axes_of.ranks_along(layout, groups.rank, layout.order))


def _sizes(layout: Layout) -> dict[str, int]:
    """The axes of the mesh; one of size 1 where none has more ranks."""
    sizes = {axis: layout.size(axis) for axis in layout.order if layout.size(axis) > 1}
    return sizes or {"dp_shard": 1}


def _flattened(layout: Layout) -> dict[str, tuple[str, ...]]:
    """The axes of the mesh's children that are one dimension."""
    sizes = _sizes(layout)
    return {
        name: tuple(axis for axis in layout.order if axis in members)
        for name, members in FLATTENED.items()
        if all(axis in sizes for axis in members)
    }


def _expert_sizes(layout: Layout) -> dict[str, int]:
    """The axes of the experts' mesh; none where there is no such mesh."""
    if layout.ep == 1 and layout.etp in (1, layout.tp):
        return {}
    every = {
        "pp": layout.pp,
        "dp_replicate": layout.dp_replicate,
        **axes_of.expert_sizes(layout),
    }
    return {axis: size for axis, size in every.items() if size > 1}


def _along(sizes: Mapping[str, int], rank: int) -> dict[str, list[int]]:
    """The ranks along each axis of a mesh of ranks 0 to the product of ``sizes``, ascending."""
    ranks = torch.arange(math.prod(sizes.values()), device="cpu").view(tuple(sizes.values()))
    place = (ranks == rank).nonzero()[0].tolist()
    found = {}
    for dim, axis in enumerate(sizes):
        along = (*place[:dim], slice(None), *place[dim + 1 :])
        found[axis] = ranks[along].tolist()
    return found


def _make_mesh(
    device_type: str, sizes: Mapping[str, int], groups: WorldGroups, purpose: str
) -> DeviceMesh:
    """A mesh of places 0 to the product of ``sizes``, this one among them, ascending."""
    along = _along(sizes, groups.rank)
    made = [groups.make(f"{purpose}/{axis}", ranks) for axis, ranks in along.items()]
    place = [ranks.index(groups.rank) for ranks in along.values()]
    if [group.rank() for group in made] != place:
        raise InternalError(
            f"world: group ranks {[group.rank() for group in made]} differ from the mesh "
            f"coordinate {place}\n"
            "  nothing was moved; please report this with the layout"
        )
    places = torch.arange(math.prod(sizes.values()), device="cpu").view(tuple(sizes.values()))
    ranks = as_numbered(places, groups)
    mesh = DeviceMesh.from_group(made, device_type, mesh=ranks, mesh_dim_names=tuple(sizes))
    groups.are_of(mesh)
    return mesh


def as_numbered(places: torch.Tensor, groups: WorldGroups) -> torch.Tensor:
    """The numbers of the ranks at some places.

    They need not ascend: torch would sort those of a group that it makes itself, and so give its
    ranks other coordinates, but the groups of a world are made in the order of their places.
    """
    if groups.numbers is None:
        return places
    return torch.tensor(groups.numbers, dtype=places.dtype, device="cpu")[places.long()]
