"""What a process keeps of the host's memory over many switches."""

from __future__ import annotations

import torch

import dynatrain
from process_memory import resident_bytes

ELEMS = 3 << 20  # of a weight; 12 MiB, which glibc takes from its heap once such pieces were freed


def switch_back_and_forth(rank, world_size):
    def build(world):
        model = torch.nn.ModuleList(
            torch.nn.Linear(1024, (ELEMS >> 10) - 64 * index, bias=False) for index in range(12)
        )
        if world.enabled("dp_shard"):
            for layer in model:
                torch.distributed.fsdp.fully_shard(layer, mesh=world.mesh)
        return dynatrain.TrainState(model)

    def fill(state, world):
        with torch.no_grad():
            for weight in state.model.parameters():
                weight.fill_(1.0)

    session = dynatrain.init(build, "dp=2", initialize=fill, timeout_s=40, verify=())
    sizes = []
    for _ in range(8):
        session.switch("dp=1")
        session.switch("dp=2")
        sizes.append(resident_bytes())
    return sizes


# A job of a month switches often: freed tensors between tensors that live must not pile up.
def test_memory_does_not_grow_from_switch_to_switch(pool):
    pool.close()  # what an earlier test has left in the heap comes and goes
    for sizes in pool.run(switch_back_and_forth, world_size=2, timeout_s=80):
        assert max(sizes[2:]) - sizes[1] < 16 << 20, sizes
