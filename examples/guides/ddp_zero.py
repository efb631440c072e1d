"""The switchable DDP script, each slot of its optimizer on one replica.

torchrun --nproc-per-node 4 examples/guides/ddp_zero.py
"""

import ddp_after
import torch
from ddp_after import make_model
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer

import dynatrain


def build(world: dynatrain.World) -> dynatrain.TrainState:
    """Build the plain model, and an optimizer that replicas divide among them."""
    model = make_model()
    if world.enabled("dp_shard"):
        fully_shard(model, mesh=world.submesh("dp_replicate", "dp_shard"))
    params, group = model.parameters(), world.group("dp_replicate")
    if group is None or world.enabled("dp_shard"):
        optimizer = torch.optim.AdamW(params, lr=1e-2)
    else:
        optimizer = ZeroRedundancyOptimizer(params, torch.optim.AdamW, process_group=group, lr=1e-2)
    return dynatrain.TrainState(model, optimizer)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    losses, reports = ddp_after.main(build=build)
    if dist.get_rank() == 0:
        print(losses, *reports, sep="\n")  # noqa: T201
    dist.destroy_process_group()
