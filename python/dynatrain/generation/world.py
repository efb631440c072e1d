"""Worlds: the ranks taking part, their mesh and groups, under one epoch number."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from dynatrain import axes as axes_of
from dynatrain._errors import LayoutError, StaleStateError
from dynatrain._torch_private.groups import (
    default_group,
    name_groups_from,
    num_groups_named,
    take_as_default,
)
from dynatrain.axes import Axes
from dynatrain.generation.meshes import FLATTENED, Meshes, as_numbered
from dynatrain.given import text
from dynatrain.layout import MESH_AXES, Layout
from dynatrain.train_state import TrainState

#: Bits of the number of names that torch can give groups in one world.
_NAMES_OF_A_WORLD = 20

#: Attributes of a world by which a script meets other ranks.
_TALKS_TO_OTHERS = ("mesh", "expert_mesh", "groups", "_made", "_groups", "_meshes", "_default")


class World:
    """One rank's place in a layout, and the meshes and groups that a model is built on.

    Wherever a method takes axes, they are those of the layout; ``fsdp`` and ``dp_shard_cp``
    (dp_shard, cp), ``batch`` and ``dp`` (dp_replicate, dp_shard), ``loss`` and ``dp_cp``
    (dp_replicate, dp_shard, cp); and ``efsdp``, ``ep``, ``etp``, which experts have in place of
    dp_shard, cp, tp and never beside them. Any other name is refused with a LayoutError.

    Made by the session only. Axes of size 1 are not part of ``mesh`` (when every size is 1 it has
    the one dimension ``dp_shard`` of size 1): ask :meth:`enabled` first, or take :meth:`submesh`,
    which knows ``dp``, too; of ``mesh["dp"]`` torch says that there is none, unless both of its
    axes are enabled. Using a world after a switch has replaced it raises
    StaleStateError.

    Attributes:
        layout: the layout that this world realises.
        rank: rank in this world, its place: ``0 <= rank < world_size``. The numbers in meshes are
            torch's ranks, which may be others with ``init(..., relabel=True)``.
        world_size: ranks of the layout; ranks of the job beyond it idle.
        mesh: n-d mesh over the enabled axes, torchtitan's names, in the layout's order.
        expert_mesh: mesh with the dimensions efsdp, ep, etp in place of dp_shard, cp, tp; None
            without expert parallelism.
        device: where parameters live.
        groups: what the hook ``groups=`` of ``dynatrain.init`` made for this layout, else None.
        epoch: counts the switches that led to this world; the first is 0, in an elastic job 1.
    """

    def __init__(
        self,
        layout: Layout,
        rank: int,
        device: torch.device,
        meshes: Meshes,
        groups: object = None,
    ) -> None:
        self.layout = layout
        self.rank = rank
        self.world_size = layout.world_size
        self.device = device
        self.mesh = meshes.mesh
        self.expert_mesh = meshes.expert_mesh
        self.groups: Any = groups
        self.epoch = 0
        self._made = meshes.groups
        self._default = meshes.default
        self._groups: dict[tuple[int, ...], dist.ProcessGroup] = {}
        self._meshes: dict[tuple[tuple[str, tuple[str, ...]], ...], DeviceMesh] = {}

    def size(self, axis: str) -> int:
        """Size of an axis, 1 when it is not enabled; also ``vpp``, which is no axis of a mesh."""
        return self.layout.vpp if text(axis) == "vpp" else axes_of.size(self.layout, axis)

    def enabled(self, axis: str) -> bool:
        """Whether the axis has more than one rank."""
        return self.size(axis) > 1

    def coordinate(self, axis: str) -> int:
        """This rank's coordinate along an axis."""
        name = text(axis)
        if name in MESH_AXES:
            return self.layout.coordinate(self.rank, name)
        return axes_of.coordinate(self.layout, self.rank, axis)

    def submesh(self, *axes: str) -> DeviceMesh | None:
        """The mesh over the enabled ones of ``axes``; None when none of them is enabled.

        A name that stands for several axes gives a dimension for each that is enabled. Axes of
        experts are cut from ``expert_mesh``; where there is none, the mesh is that of
        :meth:`mesh_over`, and as collective.
        """
        return self._submesh(axes_of.enabled(self.layout, axes))

    def _submesh(self, enabled: tuple[str, ...]) -> DeviceMesh | None:
        if not enabled:
            return None
        for mesh in (self.mesh, self.expert_mesh):
            if mesh is not None and set(enabled) <= set(mesh.mesh_dim_names or ()):
                return mesh[enabled]
        return self.mesh_over(*enabled)

    def flat(self, *axes: str) -> DeviceMesh | None:
        """A 1-D mesh over the enabled ones of ``axes``; None when none of them is enabled.

        ``("dp_shard", "cp")`` and ``("dp_replicate", "dp_shard")`` are children of ``mesh``, as
        ``fully_shard`` beside tensor parallelism asks; others stand alone, and are as collective as
        :meth:`group`.
        """
        enabled = axes_of.enabled(self.layout, axes)
        if len(enabled) < 2:
            return self._submesh(enabled)
        for name, members in FLATTENED.items():
            if set(enabled) == set(members):
                return self.mesh[name]
        return self.mesh_over(**{"_".join(enabled): enabled})

    def group(self, *axes: str) -> dist.ProcessGroup | None:
        """One group over all ranks that vary along ``axes``; None when none of them is enabled.

        Collective over the ranks of the group the first time that it is asked for axes which no
        mesh of this world has a group for; it then runs over the store alone.
        """
        enabled = axes_of.enabled(self.layout, axes)
        if not enabled:
            return None
        return self._group_along(enabled, axes_of.ranks_along(self.layout, self.rank, enabled))

    def _group_of(self, ranks: list[int]) -> dist.ProcessGroup:
        key = tuple(ranks)
        if key not in self._groups:
            self._groups[key] = self._made.make("axes", ranks)
        return self._groups[key]

    def mesh_over(self, *axes: str, **named: Axes) -> DeviceMesh:
        """A mesh with just these dimensions, those of size 1 with a group of their own, too.

        ``mesh_over("dp_replicate", "fsdp", "tp")`` is a dense mesh as torchtitan names it, and
        ``mesh_over("efsdp", "ep")`` one for experts, also where ``ep`` is 1. A keyword gives a
        dimension a name of the caller's: ``mesh_over(data=("dp_replicate", "dp_shard"), tp="tp")``.
        Equal calls return one mesh; slices of it share their root, as ``fully_shard`` beside tensor
        parallelism asks.

        Collective over the ranks of each dimension, in the same order on all of them, as
        :meth:`group` is.

        Raises:
            LayoutError: there is no such axis, or two dimensions share one.
        """
        axes_of.atoms(self.layout, axes)  # refuses what is no name
        dims = {**{axis: axis for axis in axes}, **named}
        key = tuple((name, axes_of.atoms(self.layout, axis)) for name, axis in dims.items())
        if key not in self._meshes:
            self._meshes[key] = self._make_mesh_over(dims, len(axes) + len(named))
        return self._meshes[key]

    def _make_mesh_over(self, dims: dict[str, Axes], num_given: int) -> DeviceMesh:
        parts = [part for axes in dims.values() for part in axes_of.atoms(self.layout, axes)]
        if len(set(parts)) != len(parts) or len(dims) != num_given or not dims:
            raise LayoutError(
                f"world: mesh_over({', '.join(dims)}) has dimensions that share an axis, or none\n"
                f"  they are made of {', '.join(parts) or 'nothing'}\n"
                "  nothing was moved\n  name each axis once"
            )
        axes_of.ranks_along(self.layout, self.rank, parts)  # refuses axes of experts beside others
        along = [axes_of.ranks_along(self.layout, self.rank, axes) for axes in dims.values()]
        ranks = torch.zeros((), dtype=torch.int, device="cpu") + self.rank
        for line in along:  # numbers of ranks are linear in coordinates
            ranks = ranks.unsqueeze(-1) + torch.tensor(line, dtype=torch.int, device="cpu")
            ranks = ranks - self.rank
        ranks = as_numbered(ranks, self._made)
        groups = [
            self._group_along(axes, line) for axes, line in zip(dims.values(), along, strict=True)
        ]
        mesh = DeviceMesh.from_group(
            groups, self.device.type, mesh=ranks, mesh_dim_names=tuple(dims)
        )
        self._made.are_of(mesh)
        return mesh

    def _group_along(self, axes: Axes, ranks: list[int]) -> dist.ProcessGroup:
        """The group over ``ranks``, that of a mesh where one has it."""
        enabled = axes_of.enabled(self.layout, axes)
        if len(enabled) == 1:
            for mesh in (self.mesh, self.expert_mesh):
                if mesh is not None and enabled[0] in (mesh.mesh_dim_names or ()):
                    return mesh.get_group(enabled[0])
        return self._group_of(ranks)

    def layers(self, num_layers: int) -> list[range]:
        """Layers of each virtual stage on this rank, in model order (``vpp`` of them)."""
        return self.layout.layers(self.coordinate("pp"), num_layers)

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank holds the first virtual stage."""
        return self.coordinate("pp") == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank holds the last virtual stage."""
        return self.coordinate("pp") == self.layout.pp - 1

    def as_torch_sees_it(self) -> AbstractContextManager[None]:
        """Has torch's default group be that of this world, where it has one of its own.

        What is built for a world asks torch for its rank and the number of ranks.
        """
        return default_group(self._default)

    def become_default(self) -> None:
        """Makes the group of this world torch's default one, where it has one of its own.

        Torch names groups by how many a process has made: members that have come at other times
        have made others, and would not meet in the next one.
        """
        if self._default is not None:
            take_as_default(self._default)
            name_groups_from(max(num_groups_named(), (1 + self.epoch) << _NAMES_OF_A_WORLD))

    def cease_as_default(self) -> None:
        """Leaves torch without a default group, where this world has one of its own."""
        if self._default is not None:
            take_as_default(None)

    def at_epoch(self, epoch: int) -> World:
        """The same place under another number; meshes and groups are shared."""
        world = copy.copy(self)
        world.epoch = epoch
        return world

    def note_groups(self) -> None:
        """Has groups that the script has made since be cut by :meth:`abort`, too."""
        groups = self.__dict__.get("_made")
        if groups is not None:
            groups.note_those_of_script()

    def abort(self, why: str) -> None:
        """Ends what waits for a peer in a group of this world, from any thread; see Connections.

        Nothing can be done over the groups any more. Of a job whose members come and go.
        """
        held = {**self.__dict__, **self.__dict__.get("_withheld", {})}
        groups = held.get("_made")
        if groups is not None and groups.connections is not None:
            groups.connections.cut(why)

    def withhold(self, why: str) -> None:
        """Makes every use of a mesh or group raise LayoutError until :meth:`give_back`."""
        held = self.__dict__
        self._withheld = {name: held.pop(name) for name in _TALKS_TO_OTHERS if name in held}
        self._why = why

    def give_back(self) -> None:
        """Lets meshes and groups be used again."""
        self.__dict__.update(self.__dict__.pop("_withheld", {}))

    def retire(self, ended: str) -> None:
        """Makes every later use raise StaleStateError.

        Args:
            ended: who ended it, as in "a world that the switch to tp=2 replaced".
        """
        self.__dict__ = {"_ended": ended}

    def __getattr__(self, name: str) -> Any:
        # Only reached for what the instance does not hold, which after retire() is everything.
        ended = self.__dict__.get("_ended")
        if name in self.__dict__.get("_withheld", ()):
            raise LayoutError(self._why)
        if ended is None:
            raise AttributeError(f"World has no attribute {name!r}")
        raise StaleStateError(
            f"world: .{name} of a world that {ended}\n"
            "  the present state is intact\n"
            "  read session.world again after every switch, and before close()"
        )

    def __repr__(self) -> str:
        if "_ended" in self.__dict__:
            return f"World(that {self._ended})"
        return f"World({self.layout}, rank={self.rank}/{self.world_size}, epoch={self.epoch})"


#: The user's own code that makes a state in a world.
Build = Callable[[World], TrainState]
