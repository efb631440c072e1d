"""Two layouts with equal dense meshes: each model computes on the mesh that it was built on."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import dynatrain
from dynatrain import TrainState

LAYOUTS = "dp=2", "dp=2,ep=2"  # experts aside, one rank pair after the other


class Wide(nn.Module):
    """A weight that is a DTensor before anything else handles it."""

    def __init__(self, mesh):
        super().__init__()
        whole = torch.ones(4, 4)
        self.weight = nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)], src_data_rank=None))

    def forward(self):
        return (self.weight * 2).redistribute(placements=[Replicate()])


def build(world):
    model = Wide(world.mesh)
    assert model.weight.device_mesh is world.mesh, "built on a mesh of another layout"
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1, foreach=False))


def train_step(state, world):
    product = state.model()
    state.optimizer.zero_grad()
    return product.device_mesh is world.mesh


def switch_back_and_forth(rank, world_size):
    session = dynatrain.init(build, LAYOUTS[0])
    at_home = [train_step(session.state, session.world)]
    for layout in (LAYOUTS[1], LAYOUTS[0], LAYOUTS[1]):
        session.prepare(layout)
        at_home.append(train_step(session.state, session.world))
        session.switch(layout)
        at_home.append(train_step(session.state, session.world))
    session.close()
    return at_home


def open_twice(rank, world_size):
    at_home = []
    for _ in range(2):
        session = dynatrain.init(build, LAYOUTS[0])
        at_home.append(train_step(session.state, session.world))
        session.close()
    return at_home


# DTensor caches by meshes that are equal. A model that is handed the mesh of another layout runs
# its collectives on groups that a switch has closed, or that nobody else calls: it hangs.
@pytest.mark.parametrize("job", [switch_back_and_forth, open_twice])
def test_each_model_computes_on_the_mesh_that_it_was_built_on(pool, job):
    for at_home in pool.run(job, world_size=2):
        assert all(at_home), at_home
