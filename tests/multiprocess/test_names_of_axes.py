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
ALL, ROWS, COLUMNS = [[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0, 2], [1, 3]]
#: Ranks along every name of more than one rank, by hand: of the axes of a layout that are above 1,
#: the first in ("pp", "dp_replicate", "dp_shard", "cp", "tp") varies slowest; ("pp",
#: "dp_replicate", "efsdp", "ep", "etp") are the same ranks again, cut for experts.
GROUPS = {
    "dp=2,cp=2": {
        **{"dp_shard": COLUMNS, "cp": ROWS, "dp": COLUMNS, "batch": COLUMNS},
        **{"fsdp": ALL, "dp_shard_cp": ALL, "loss": ALL, "dp_cp": ALL, "efsdp": ALL},
    },
    "dp_replicate=2,dp=2": {
        **{"dp_replicate": COLUMNS, "dp_shard": ROWS, "dp": ALL, "batch": ALL},
        **{"fsdp": ROWS, "dp_shard_cp": ROWS, "loss": ALL, "dp_cp": ALL, "efsdp": ROWS},
    },
    "dp=2,tp=2,etp=2": {
        **{"dp_shard": COLUMNS, "tp": ROWS, "dp": COLUMNS, "batch": COLUMNS, "fsdp": COLUMNS},
        **{"dp_shard_cp": COLUMNS, "loss": COLUMNS, "dp_cp": COLUMNS},
        **{"efsdp": COLUMNS, "etp": ROWS},
    },
    "dp=4,ep=2": {
        **{"dp_shard": ALL, "dp": ALL, "batch": ALL, "fsdp": ALL, "dp_shard_cp": ALL},
        **{"loss": ALL, "dp_cp": ALL, "efsdp": COLUMNS, "ep": ROWS},
    },
    "pp=2,cp=2,ep=2": {
        **{"pp": COLUMNS, "cp": ROWS, "fsdp": ROWS, "dp_shard_cp": ROWS},
        **{"loss": ROWS, "dp_cp": ROWS, "ep": ROWS},
    },
    "tp=3": {"tp": [[0, 1, 2]], "efsdp": [[0, 1, 2]]},
}
#: Dimensions and ranks of `submesh("fsdp", "tp")` and `submesh("pp", "ep")`.
PAIRS = {
    "dp=2,cp=2": ((("dp_shard", "cp"), ALL), None),
    "dp_replicate=2,dp=2": ((("dp_shard",), ROWS), None),
    "dp=2,tp=2,etp=2": ((("dp_shard", "tp"), ALL), None),
    "dp=4,ep=2": ((("dp_shard",), ALL), (("ep",), ROWS)),
    "pp=2,cp=2,ep=2": ((("cp",), ROWS), (("pp", "ep"), ALL)),
    "tp=3": ((("tp",), [[0, 1, 2]]), None),
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


def own_of(groups, rank):
    return next(group for group in groups if rank in group)


# `submesh("fsdp")` was None: a model was built on no mesh at all, and every rank trained its own.
@pytest.mark.parametrize("layout", GROUPS)
def test_submesh_flat_and_group_know_the_same_names(pool, layout):
    groups = GROUPS[layout]
    for rank, result in enumerate(pool.run(read, layout)):
        if (layout, rank) == ("tp=3", 3):
            assert result is None
            continue
        found, pairs = result
        for name, parts in PARTS.items():
            got = found[name]
            assert got["enabled"] == (name in groups)
            if name not in groups:
                assert (got["submesh"], got["flat"], got["group"]) == (None, None, None)
                assert (got["size"], got["coordinate"]) == (1, 0)
                continue
            ranks = own_of(groups[name], rank)
            assert got["group"] == ranks
            assert got["submesh"] == (tuple(part for part in parts if part in groups), ranks)
            assert got["flat"][1] == ranks
            assert len(got["flat"][0]) == 1
            assert (got["size"], got["coordinate"]) == (len(ranks), ranks.index(rank))
        for pair, expected in zip(pairs, PAIRS[layout], strict=True):
            assert pair == (expected and (expected[0], own_of(expected[1], rank)))


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
