"""The axes that a world hands out: under the names of frameworks, on meshes that stay apart."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

import training_jobs as jobs
from dynatrain import Layout, TrainState
from sessions import start


def read_axes(rank, world_size, layout):
    """Ranks of every dimension, and a sum over each: by its group, whatever its size."""
    world = start(layout, build_nothing, initialize=None).world
    found = {}
    for dims in (
        ("pp", "dp_replicate", "fsdp", "tp"),
        ("pp", "batch", "cp", "tp"),
        ("loss",),
        ("pp", "dp_replicate", "efsdp", "ep", "etp"),
    ):
        mesh = world.mesh_over(*dims)
        assert mesh is world.mesh_over(*dims)
        assert mesh.mesh_dim_names == dims
        for dim in dims:
            group = mesh[dim].get_group()
            total = torch.tensor([rank])
            dist.all_reduce(total, group=group)
            ranks = dist.get_process_group_ranks(group)
            assert int(total) == sum(ranks)
            assert mesh.get_local_rank(dim) == world.coordinate(dim) == ranks.index(rank)
            assert mesh[dim].mesh.tolist() == ranks
            assert world.size(dim) == len(ranks)
            found[dim] = ranks
    named = world.mesh_over(data=("dp_replicate", "dp_shard"), model="tp")
    assert named["data"].mesh.tolist() == found["batch"]
    whole = distribute_tensor(torch.arange(8.0), world.mesh_over("cp"), [Replicate()])
    assert whole.full_tensor().sum() == 28
    return found


def build_nothing(world):
    return TrainState(nn.Linear(2, 2))


# As torchtitan's ParallelDims flattens its axes; written out by hand.
EXPECTED = {
    "dp=2,tp=2": [
        {"fsdp": [0, 2], "tp": [0, 1], "efsdp": [0, 1, 2, 3], "ep": [0], "loss": [0, 2]},
        {"fsdp": [1, 3], "tp": [0, 1], "efsdp": [0, 1, 2, 3], "ep": [1], "loss": [1, 3]},
    ],
    "dp_replicate=2,dp=2,ep=2": [
        {"fsdp": [0, 1], "dp_replicate": [0, 2], "batch": [0, 1, 2, 3], "ep": [0, 1], "efsdp": [0]},
        {"fsdp": [0, 1], "dp_replicate": [1, 3], "batch": [0, 1, 2, 3], "ep": [0, 1], "efsdp": [1]},
    ],
    "pp=2,cp=2": [
        {"pp": [0, 2], "cp": [0, 1], "fsdp": [0, 1], "loss": [0, 1], "batch": [0], "efsdp": [0, 1]},
        {"pp": [1, 3], "cp": [0, 1], "fsdp": [0, 1], "loss": [0, 1], "batch": [1], "efsdp": [0, 1]},
    ],
}


# Frameworks ask for every axis by name, and for a group of it, also where it has one rank.
@pytest.mark.parametrize("layout", EXPECTED)
def test_world_hands_out_every_axis_under_the_names_of_frameworks(pool, layout):
    results = pool.run(read_axes, layout)

    for rank, expected in enumerate(EXPECTED[layout]):
        assert {name: results[rank][name] for name in expected} == expected


def build_on_mesh_over(world):
    """FSDP inside TP on slices of one mesh, whatever the sizes."""
    model = jobs.Mlp()
    mesh = world.mesh_over("dp_replicate", "fsdp", "tp")
    plan = {"up": jobs.ColwiseParallel(), "down": jobs.RowwiseParallel()}
    for block in model.blocks:
        jobs.parallelize_module(block, mesh["tp"], plan)
        fully_shard(block, mesh=mesh["dp_replicate", "fsdp"])
    fully_shard(model, mesh=mesh["dp_replicate", "fsdp"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    return TrainState(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))


def switch_on_mesh_over(rank, world_size):
    session = start("dp=2,tp=2", build_on_mesh_over)
    found = []
    for step, layout in enumerate(("dp=4", "dp_replicate=2,dp=2", "tp=4", "dp=2,tp=2")):
        jobs.train_step(session.state, session.world, step)
        before = session.fingerprint()
        session.switch(layout)
        found.append(before == session.fingerprint())
    return found


def test_models_on_meshes_of_named_axes_switch(pool):
    assert pool.run(switch_on_mesh_over) == [[True] * 4] * 4


def build_with_product(world):
    model = nn.Linear(8, 8, bias=False)
    fully_shard(model, mesh=world.mesh)
    with torch.no_grad():
        assert (model.weight * 2).device_mesh is world.mesh
    return TrainState(model)


def fill(state, world):
    with torch.no_grad():
        state.model.weight._local_tensor.fill_(world.rank)


def meshes_of_products(rank, world_size):
    session = start("dp=4", build_with_product, initialize=fill)

    def on_own_mesh():
        weight = session.state.model.weight
        assert isinstance(weight, DTensor)
        with torch.no_grad():
            return (weight * 2).device_mesh is session.world.mesh

    found = [on_own_mesh()]
    session.prepare("dp=4,ep=2")
    found.append(on_own_mesh())
    session.switch("dp=4,ep=2")
    found.append(on_own_mesh())
    session.switch(Layout(dp=4))
    found.append(on_own_mesh())
    session = start("dp=4", build_with_product, initialize=fill)
    return [*found, on_own_mesh()]


# dp=4 and dp=4,ep=2 have equal dense meshes, and the cache tells meshes apart by equality.
def test_layouts_with_equal_dense_meshes_stay_apart(pool):
    assert pool.run(meshes_of_products) == [[True] * 5] * 4


def patience_of_groups(rank, world_size):
    cpu = torch.device("cpu")
    everybody = dist.group.WORLD._get_backend(cpu)
    former = everybody.options._timeout
    everybody._set_default_timeout(timedelta(seconds=77))  # as init_process_group(timeout=) does
    world = start("dp=2,tp=2", build_nothing, initialize=None).world
    groups = [world.mesh["tp"].get_group(), world.mesh_over("fsdp", "tp")["fsdp"].get_group()]
    everybody._set_default_timeout(former)  # the pool's processes run other tests, too
    return [group._get_backend(cpu).options._timeout.total_seconds() for group in groups]


# A script that sets a timeout relies on it in the steps too; half an hour in a hung one is lost.
def test_groups_of_a_world_wait_as_long_as_the_group_of_all_ranks(pool):
    assert pool.run(patience_of_groups) == [[77, 77]] * 4


SAME_WORK = "They do the same work, and drift apart where they draw random numbers"


def pass_over_an_axis(rank, world_size, layout):
    class Heard(logging.Handler):
        def emit(self, record):
            heard.append(record.getMessage())

    heard = []
    logging.getLogger("dynatrain.session").addHandler(Heard(logging.WARNING))

    def build(world):
        model = torch.nn.Linear(2, 2)
        return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))

    start("dp_replicate=4", build, initialize=None).switch(layout)
    return heard


# Nothing failed, and ranks along the axis that drew random numbers had parameters of their own.
@pytest.mark.parametrize(
    ("layout", "axis", "comes_of_it"),
    [
        ("dp_replicate=2,pp=2", "pp", SAME_WORK),
        ("tp=4", "tp", SAME_WORK),
        ("dp=4", "dp_shard", "They drift apart unless their gradients are averaged"),
    ],
)
def test_a_build_that_passes_over_an_axis_is_told_of_it(pool, layout, axis, comes_of_it):
    heard = pool.run(pass_over_an_axis, layout)

    (told,) = heard[0]
    assert told.startswith(
        f"layout {layout}: ranks that differ along {axis} alone hold the same part of every "
        f"tensor. Does build use {axis}? {comes_of_it}"
    )
    assert heard[1:] == [[], [], []]
