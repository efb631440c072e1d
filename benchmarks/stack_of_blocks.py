"""The job whose switches are timed: blocks of two matrices, with AdamW's two moments."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from dynatrain import TrainState, World

HIDDEN = 1024


class FeedForward(nn.Module):
    """Two matrices and a norm: 8 * HIDDEN**2 parameters and a few."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(HIDDEN)
        self.up = nn.Linear(HIDDEN, 4 * HIDDEN, bias=False)
        self.down = nn.Linear(4 * HIDDEN, HIDDEN, bias=False)


@dataclass(frozen=True)
class Job:
    """A stack of blocks with AdamW's two moments, in any layout of dp and tp."""

    num_blocks: int

    def build(self, world: World) -> TrainState:
        """Builds the stack; nothing is ever computed with it."""
        model = nn.ModuleList(FeedForward() for _ in range(self.num_blocks))
        for block in model:
            if world.enabled("tp"):
                plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
                parallelize_module(block, world.mesh["tp"], plan)
            mesh = world.submesh("dp_replicate", "dp_shard")
            if mesh is not None:
                fully_shard(block, mesh=mesh)
        return TrainState(model, torch.optim.AdamW(model.parameters(), foreach=False))

    @staticmethod
    def initialize(state: TrainState, world: World) -> None:
        """Fills weights and moments with numbers that differ from rank to rank."""
        generator = torch.Generator(world.device).manual_seed(world.rank)
        with torch.no_grad():
            for param in state.model.parameters():
                slots = {"step": torch.tensor(7.0)}
                slots |= {slot: torch.empty_like(param) for slot in ("exp_avg", "exp_avg_sq")}
                state.optimizer.state[param] = slots
                for tensor in (param, slots["exp_avg"], slots["exp_avg_sq"]):
                    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
                    local.uniform_(generator=generator)
