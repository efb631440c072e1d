"""The same script, able to change its layout while it trains.

torchrun --nproc-per-node 4 examples/guides/fsdp_tp_after.py
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils.data import TensorDataset

import dynatrain

NUM_STEPS, GLOBAL_BATCH, MICRO_BATCH = 12, 24, 6
SWITCHES = {4: "tp=4", 8: "dp=4"}  # after so many steps


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


def build(world: dynatrain.World) -> dynatrain.TrainState:
    """Build model, optimizer and scheduler; called for every layout."""
    model = make_model()
    if world.enabled("tp"):
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        for block in model:
            parallelize_module(block, world.mesh["tp"], plan)
    if world.enabled("dp_shard"):
        for block in model:
            fully_shard(block, mesh=world.mesh["dp_shard"])
        fully_shard(model, mesh=world.mesh["dp_shard"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    scheduler = CosineAnnealingLR(optimizer, NUM_STEPS)
    return dynatrain.TrainState(model, optimizer, scheduler)


def main(
    switches: Mapping[int, str] = SWITCHES, load: str | None = None, save: str | None = None
) -> tuple[dict[int, float], list[dynatrain.SwitchReport]]:
    """Train and switch; return this rank's losses by step, and the reports."""
    dataset = make_dataset()
    loader = dynatrain.ElasticLoader(dataset, dynatrain.ElasticSampler(len(dataset), GLOBAL_BATCH))
    torch.manual_seed(0)  # the same weights on every rank
    session = dynatrain.init(
        build, "dp=2,tp=2", keep={"data": loader}, verify=("sums", "fingerprint")
    )
    if load is not None:
        state = session.state
        load_checkpoint(state.model, state.optimizer, state.scheduler, load)
    losses: dict[int, float] = {}
    reports: list[dynatrain.SwitchReport] = []
    for step in session.steps(NUM_STEPS):
        state = session.state  # again in every step: a switch replaces it
        losses[step] = train_step(state.model, next(loader))
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.scheduler.step()
        if save is not None and step + 1 == NUM_STEPS:
            save_checkpoint(state.model, state.optimizer, state.scheduler, save)
        if step + 1 in switches:
            reports.append(dynatrain.switch_parallelism(switches[step + 1]))
    session.close()
    return losses, reports


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
    losses, reports = main()
    if dist.get_rank() == 0:
        print(losses, *reports, sep="\n")  # noqa: T201
    dist.destroy_process_group()
