"""Process groups of a framework: made by its hook on all ranks, and refused inside build."""

from __future__ import annotations

import pytest
import torch
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

import training_jobs as jobs
from dynatrain import Layout, TrainState, World
from sessions import outcome, start, works


def make_groups(layout):
    """A framework's own mesh, as torchtitan makes it: all ranks, then dimensions of it."""
    made.append(str(layout))
    dims = {"replicate": layout.dp_replicate, "shard": layout.dp_shard, "tensor": layout.tp}
    return init_device_mesh("cpu", tuple(dims.values()), mesh_dim_names=tuple(dims))


made: list[str] = []


def build_on_groups(world):
    model = jobs.Mlp()
    mesh = world.groups
    for block in model.blocks:
        fully_shard(block, mesh=mesh["shard"])
    fully_shard(model, mesh=mesh["shard"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    return TrainState(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))


def train_on_groups(rank, world_size):
    made.clear()
    session = start("dp=2", build_on_groups, groups=make_groups, verify=("fingerprint",))
    same = []
    session.on_switch(
        lambda report: same.append(report.fingerprint_before == report.fingerprint_after)
    )
    for step in session.steps(4):
        jobs.train_step(session.state, session.world, step)
        session.switch(("dp=4", "dp=3", "dp=2", "dp=4")[step])
    return made, same


# Groups need every rank of the job; a build runs only on the ranks that its layout has.
def test_groups_of_a_framework_are_made_on_all_ranks_once_per_layout(pool):
    assert pool.run(train_on_groups) == [(["dp=2", "dp=4", "dp=3"], [True] * 4)] * 4


def new_group(world):
    dist.new_group(list(range(world.world_size - 1)))


def subgroups(world):
    dist.new_subgroups(1)


def split(world):
    dist.split_group(split_ranks=[[0], [1]])


def mesh(world):
    DeviceMesh("cpu", torch.arange(world.world_size, device="cpu"))


def framework_mesh(world):
    init_device_mesh("cpu", (world.world_size, 1), mesh_dim_names=("a", "b"))


def flattened(world):
    world.mesh_over("dp_shard", "tp")._flatten("both")


def mesh_of_the_job(world):
    fully_shard(torch.nn.Linear(3, 3))


MAKERS = [new_group, subgroups, split, mesh, framework_mesh, flattened, mesh_of_the_job]


def make_groups_in_build(rank, world_size, make):
    on = [False]

    def build(world):
        if on[0]:
            make(world)
        return jobs.build(world)

    session = start("dp=4", build)
    on[0] = True
    ended = [outcome(lambda call=call: call("dp=3")) for call in (session.check, session.switch)]
    on[0] = False
    return ended, session.switch("dp=3").epoch


# The rank that idles in the target runs no build: the others waited for it beyond any deadline.
@pytest.mark.parametrize("make", MAKERS)
def test_groups_made_in_build_are_refused_by_name_at_once(pool, make):
    for ended, epoch in pool.run(make_groups_in_build, make):
        assert epoch == 1
        for kind, text in ended:
            assert kind == "LayoutError"
            assert "process group" in text
            assert "groups=" in text


def begin_over_all_ranks(rank, world_size, layout):
    def build(world):
        state = jobs.build(World(Layout(), 0, world.device, jobs.NoMeshes()))
        fully_shard(state.model)
        return state

    refusal = outcome(lambda: start(layout, build))
    return refusal, works("dp=4")


# torch makes no group for it, so that init let it through; no smaller layout has all of its ranks,
# and the first switch to one said that ranks disagree about a weight.
@pytest.mark.parametrize("layout", ["dp=4", "dp=2"])
def test_fully_shard_without_a_mesh_is_refused_by_init_with_the_mesh_to_give(pool, layout):
    for (kind, text), goes_on in pool.run(begin_over_all_ranks, layout):
        assert kind == "LayoutError"
        assert "of all ranks of the job, [0, 1, 2, 3]" in text
        assert 'mesh=world.mesh["dp_shard"]' in text
        assert goes_on


def fail_to_make_groups(rank, world_size):
    def groups(layout):
        mesh = make_groups(layout)
        if rank == 2 and layout.tp > 1:
            raise KeyError("no such group")
        return mesh

    session = start("dp=4", groups=groups)
    ended = [outcome(lambda: session.switch("dp=2,tp=2")) for _ in range(2)]
    return ended, session.switch("dp=4").epoch


# What one rank lacks of a layout no rank may keep: the next call would wait for it there.
def test_hook_that_raises_on_one_rank_refuses_the_switch_on_all(pool):
    for ended, epoch in pool.run(fail_to_make_groups):
        assert epoch == 1
        for kind, text in ended:
            assert kind == "LayoutError"
            assert "no such group" in text
