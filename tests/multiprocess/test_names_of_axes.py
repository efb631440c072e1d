"""Every method of a world knows every name of an axis, whichever layout it is."""

from __future__ import annotations

import pytest
import torch
from torch import distributed as dist
from torch import nn

from dynatrain import LayoutError, TrainState
from hostile_objects import objects
from sessions import start

#: What a name is made of, as torchtitan's ParallelDims has it; written out by hand.
PARTS = {
    "pp": ("pp",),
    "dp_replicate": ("dp_replicate",),
    "dp_shard": ("dp_shard",),
    "cp": ("cp",),
    "tp": ("tp",),
    "dp": ("dp_replicate", "dp_shard"),
    "batch": ("dp_replicate", "dp_shard"),
    "fsdp": ("dp_shard", "cp"),
    "dp_shard_cp": ("dp_shard", "cp"),
    "loss": ("dp_replicate", "dp_shard", "cp"),
    "dp_cp": ("dp_replicate", "dp_shard", "cp"),
    "efsdp": ("efsdp",),
    "ep": ("ep",),
    "etp": ("etp",),
}
#: Sizes above 1 of each layout, experts' included.
SIZES = {
    "dp=2,cp=2": {"dp_shard": 2, "cp": 2, "efsdp": 4},
    "dp_replicate=2,dp=2": {"dp_replicate": 2, "dp_shard": 2, "efsdp": 2},
    "dp=2,tp=2,etp=2": {"dp_shard": 2, "tp": 2, "efsdp": 2, "etp": 2},
    "dp=4,ep=2": {"dp_shard": 4, "efsdp": 2, "ep": 2},
    "pp=2,cp=2,ep=2": {"pp": 2, "cp": 2, "ep": 2},
    "tp=3": {"tp": 3, "efsdp": 3},
}


def build(world):
    return TrainState(nn.Linear(2, 2))


def mesh_of(mesh):
    """Dimensions of a mesh, and the ranks of it in its own order; checked by a sum over each."""
    if mesh is None:
        return None
    for dim in mesh.mesh_dim_names:
        total = torch.tensor([dist.get_rank()])
        dist.all_reduce(total, group=mesh.get_group(dim))
        assert int(total) == sum(dist.get_process_group_ranks(mesh.get_group(dim)))
    return mesh.mesh_dim_names, mesh.mesh.flatten().tolist()


def read(rank, world_size, layout):
    session = start(layout, build, initialize=None)
    if not session.active:
        return None
    world, found = session.world, {}
    for name in PARTS:
        group = world.group(name)
        found[name] = {
            "submesh": mesh_of(world.submesh(name)),
            "flat": mesh_of(world.flat(name)),
            "group": None if group is None else dist.get_process_group_ranks(group),
            "size": world.size(name),
            "enabled": world.enabled(name),
            "coordinate": world.coordinate(name),
        }
    pair = mesh_of(world.submesh("fsdp", "tp")), mesh_of(world.submesh("pp", "ep"))
    return found, pair


# `submesh("fsdp")` was None: a model was built on no mesh at all, and every rank trained its own.
@pytest.mark.parametrize("layout", SIZES)
def test_submesh_flat_and_group_know_the_same_names(pool, layout):
    sizes = SIZES[layout]
    for rank, result in enumerate(pool.run(read, layout)):
        if result is None:
            continue
        found, (dense, experts) = result
        for name, parts in PARTS.items():
            enabled = tuple(part for part in parts if sizes.get(part, 1) > 1)
            got, ranks = found[name], found[name]["group"]
            assert got["enabled"] == bool(enabled)
            if not enabled:
                assert (got["submesh"], got["flat"], ranks) == (None, None, None)
                assert (got["size"], got["coordinate"]) == (1, 0)
                continue
            assert got["submesh"] == (enabled, ranks)
            assert got["flat"][1] == ranks
            assert len(got["flat"][0]) == 1
            assert len(ranks) == got["size"]
            assert ranks[got["coordinate"]] == rank
        wanted = tuple(part for part in ("dp_shard", "cp", "tp") if sizes.get(part, 1) > 1)
        assert dense is None if not wanted else dense[0] == wanted
        wanted = tuple(part for part in ("pp", "ep") if sizes.get(part, 1) > 1)
        assert experts is None if not wanted else experts[0] == wanted


def ask_wrongly(rank, world_size):
    world = start("dp=2,tp=2", build, initialize=None).world
    calls = [
        *(world.size, world.enabled, world.coordinate, world.submesh, world.flat, world.group),
        *(world.mesh_over, lambda axis: world.mesh_over(mine=axis)),
    ]
    wrong = {**objects(), "misspelt": "dp_shrad", "number": 3, "none": None, "empty": ""}
    del wrong["array of none"]  # no axis at all has one rank
    kinds = set()
    for words, axis in wrong.items():
        for call in calls:
            try:
                call(axis)
            except LayoutError as error:
                kinds.add("there is no axis" in str(error) or (words, str(error)))
            else:
                kinds.add(words)
    for call in (world.submesh, world.flat, world.group, world.mesh_over):
        with pytest.raises(LayoutError, match="cannot be axes of one mesh"):
            call("tp", "ep")
    return kinds


# A name that is misspelt gave None, which means: nothing is sharded.
def test_name_that_no_method_knows_is_refused_by_all_of_them(pool):
    assert pool.run(ask_wrongly) == [{True}] * 4
