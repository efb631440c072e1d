"""A plain DistributedDataParallel script.

torchrun --nproc-per-node 4 examples/guides/ddp_before.py
"""

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

NUM_STEPS, GLOBAL_BATCH = 24, 24


def make_model() -> nn.Module:
    """Return the model."""
    return nn.Sequential(
        nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1)
    )


def make_dataset() -> TensorDataset:
    """Return points of a smooth function."""
    inputs = torch.randn(GLOBAL_BATCH * 12, 8, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, inputs.sin().sum(dim=1, keepdim=True))


def main() -> list[float]:
    """Train; return this rank's losses."""
    torch.manual_seed(0)
    model = DistributedDataParallel(make_model())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    dataset = make_dataset()
    sampler: DistributedSampler = DistributedSampler(dataset)
    loader = DataLoader(dataset, GLOBAL_BATCH // dist.get_world_size(), sampler=sampler)
    losses: list[float] = []
    while len(losses) < NUM_STEPS:
        sampler.set_epoch(len(losses))
        for inputs, targets in loader:
            loss = nn.functional.mse_loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


if __name__ == "__main__":
    dist.init_process_group("gloo")
    print(main())  # noqa: T201
    dist.destroy_process_group()
