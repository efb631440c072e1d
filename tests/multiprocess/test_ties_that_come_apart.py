"""Copies that one layout ties and another keeps apart: each has memory of its own there."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

import dynatrain
from dynatrain import TrainState

APART = "dp_replicate=2"


class Copies(nn.Module):
    def __init__(self, *, tied):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(5, 3, bias=False) for _ in range(3))
        if tied:
            self.b.weight = self.c.weight = self.a.weight


def build(world):
    model = Copies(tied=str(world.layout) != APART)
    if world.enabled("dp_shard"):
        fully_shard(model, mesh=world.mesh["dp_shard"])
    return TrainState(model, torch.optim.AdamW(model.parameters(), lr=0.1, foreach=False))


def local(tensor):
    return getattr(tensor, "_local_tensor", tensor)


def step_all(state):
    for param in state.model.parameters():
        param.grad = torch.ones_like(param)
    state.optimizer.step()
    state.optimizer.zero_grad()


def untie(rank, world_size, source, mode):
    """Goes from ``source``, where all is tied, to where it is not, and does a step there."""
    del rank, world_size
    session = dynatrain.init(build, source, mode=mode, transport="c10d")
    if session.active:
        step_all(session.state)
    session.switch(APART)
    params = [module.weight for module in session.state.model.children()]
    slots = [session.state.optimizer.state[param] for param in params]
    tensors = [*params, *(slot[name] for slot in slots for name in slot)]
    memories = {local(each).data_ptr() for each in tensors}
    before = [each.clone() for each in params]
    step_all(session.state)
    steps = [slot["step"].item() for slot in slots]
    moved = [(new - old).abs().max().item() for new, old in zip(params, before, strict=True)]
    session.close()
    return len(tensors), len(memories), steps, moved


# All lay in the memory of the one: each update of an optimizer step came three times.
@pytest.mark.parametrize("mode", ["retain", "stream"])
@pytest.mark.parametrize("source", ["dp=1", "dp=2"])
def test_what_comes_apart_has_memory_of_its_own(pool, source, mode):
    for num_tensors, num_memories, steps, moved in pool.run(untie, source, mode, world_size=2):
        assert (num_tensors, num_memories) == (12, 12)
        assert steps == [2.0, 2.0, 2.0]
        assert moved == pytest.approx([0.1] * 3, rel=0.02)
