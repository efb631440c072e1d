"""A script with fully_shard, tensor parallel, accumulation and checkpoints.

torchrun --nproc-per-node 4 examples/guides/fsdp_tp_before.py
"""

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

NUM_STEPS, GLOBAL_BATCH, MICRO_BATCH, DP, TP = 12, 24, 6, 2, 2


class Block(nn.Module):
    """A residual feed-forward block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.up = nn.Linear(16, 64)
        self.down = nn.Linear(64, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Add to the stream."""
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def make_model() -> nn.Module:
    """Return the model."""
    return nn.Sequential(Block(), Block(), Block())


def make_dataset() -> TensorDataset:
    """Return points of a smooth function."""
    inputs = torch.randn(GLOBAL_BATCH * 12, 16, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, inputs.sin())


def main(load: str | None = None, save: str | None = None) -> list[float]:
    """Train, from a checkpoint and to one if they are named; return this rank's losses."""
    mesh = init_device_mesh("cpu", (DP, TP), mesh_dim_names=("dp_shard", "tp"))
    torch.manual_seed(0)  # the same weights on every rank
    model = make_model()
    for block in model:
        parallelize_module(block, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        fully_shard(block, mesh=mesh["dp_shard"])
    fully_shard(model, mesh=mesh["dp_shard"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    scheduler = CosineAnnealingLR(optimizer, NUM_STEPS)
    if load is not None:
        load_checkpoint(model, optimizer, scheduler, load)
    dataset = make_dataset()
    dp_rank = mesh.get_local_rank("dp_shard")
    sampler: DistributedSampler = DistributedSampler(dataset, num_replicas=DP, rank=dp_rank)
    loader = DataLoader(dataset, GLOBAL_BATCH // DP, sampler=sampler)
    losses: list[float] = []
    while len(losses) < NUM_STEPS:
        sampler.set_epoch(len(losses))
        for batch in loader:
            losses.append(train_step(model, batch))
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    if save is not None:
        save_checkpoint(model, optimizer, scheduler, save)
    return losses


def train_step(model: nn.Module, batch: list[Tensor]) -> float:
    """Accumulate the gradient of a batch, a few samples at a time; return the mean loss."""
    pieces = [part.split(MICRO_BATCH) for part in batch]
    total = 0.0
    for inputs, targets in zip(*pieces, strict=True):
        loss = nn.functional.mse_loss(model(inputs), targets) / len(pieces[0])
        loss.backward()
        total += loss.item()
    return total


def save_checkpoint(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    path: str,
) -> None:
    """Write a checkpoint."""
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state, "scheduler": scheduler}
    checkpoint.save(state, checkpoint_id=path)


def load_checkpoint(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    path: str,
) -> None:
    """Read a checkpoint into live objects."""
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state, "scheduler": scheduler}
    checkpoint.load(state, checkpoint_id=path)
    set_state_dict(model, optimizer, model_state_dict=model_state, optim_state_dict=optimizer_state)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    print(main())  # noqa: T201
    dist.destroy_process_group()
