"""Copies that one layout ties and another keeps apart, and what they are held to."""

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


def tie_what_differs_on_one_rank(rank, world_size):
    """Streams to a layout that ties what is equal, but for one element of one owner."""
    del world_size
    session = dynatrain.init(build, APART, mode="stream", transport="c10d")
    step_all(session.state)
    weights = [module.weight for module in session.state.model.children()]
    slots = [session.state.optimizer.state[weight] for weight in weights]
    with torch.no_grad():
        for weight, slot in zip(weights, slots, strict=True):
            weight.copy_(torch.arange(15.0).reshape(3, 5))
            for name in ("exp_avg", "exp_avg_sq"):
                slot[name].fill_(0.5)
        weights[2][-1, -1] += rank
    before = [weight.clone() for weight in weights]
    try:
        session.switch("dp=2")
    except dynatrain.LayoutError as error:
        said = str(error)
    still = [module.weight for module in session.state.model.children()]
    same = all(torch.equal(old, new) for old, new in zip(before, still, strict=True))
    layout = str(session.world.layout)
    session.close()
    return said, same, layout


# The lowest owners of both held the same, and what arrived was another owner's: behind the vote.
def test_owners_of_a_copy_that_differ_are_refused_while_the_source_is_whole(pool):
    for said, same, layout in pool.run(tie_what_differs_on_one_rank, world_size=2):
        assert "'c.weight|param' [0:3, 0:5] differs between ranks" in said
        assert (same, layout) == (True, APART)
