"""The same script, able to change its layout while it trains.

torchrun --nproc-per-node 4 examples/guides/ddp_after.py
"""

from collections.abc import Callable, Mapping

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import dynatrain

NUM_STEPS, GLOBAL_BATCH = 24, 24
SWITCHES = {8: "dp_replicate=2", 12: "dp_replicate=4", 16: "dp=4"}  # after so many steps


def make_model() -> nn.Module:
    """Return the model."""
    return nn.Sequential(
        nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1)
    )


def make_dataset() -> TensorDataset:
    """Return points of a smooth function."""
    inputs = torch.randn(GLOBAL_BATCH * 12, 8, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, inputs.sin().sum(dim=1, keepdim=True))


def build(world: dynatrain.World) -> dynatrain.TrainState:
    """Build the plain model and its optimizer; called for every layout."""
    model = make_model()
    if world.enabled("dp_shard"):
        fully_shard(model, mesh=world.submesh("dp_replicate", "dp_shard"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return dynatrain.TrainState(model, optimizer)


class Replicas:
    """The model as the training step calls it, wrapped anew in every world."""

    model: nn.Module | None = None

    def on_world(self, world: dynatrain.World | None) -> None:
        """Wrap the present model; DistributedDataParallel may communicate here."""
        self.model = None
        if world is None:  # this rank idles
            return
        self.model = dynatrain.current_session().state.model
        if world.enabled("dp_replicate") and not world.enabled("dp_shard"):
            group = world.group("dp_replicate")
            self.model = DistributedDataParallel(self.model, process_group=group)


def main(
    switches: Mapping[int, str] = SWITCHES,
    build: Callable[[dynatrain.World], dynatrain.TrainState] = build,
) -> tuple[dict[int, float], list[dynatrain.SwitchReport]]:
    """Train and switch; return this rank's losses by step, and the reports."""
    replicas = Replicas()
    dataset = make_dataset()
    loader = dynatrain.ElasticLoader(dataset, dynatrain.ElasticSampler(len(dataset), GLOBAL_BATCH))
    torch.manual_seed(0)
    session = dynatrain.init(
        build,
        "dp_replicate=4",
        keep={"replicas": replicas, "data": loader},
        verify=("sums", "fingerprint"),
    )
    losses: dict[int, float] = {}
    reports: list[dynatrain.SwitchReport] = []
    for step in session.steps(NUM_STEPS):
        inputs, targets = next(loader)
        loss = nn.functional.mse_loss(replicas.model(inputs), targets)
        loss.backward()
        session.state.optimizer.step()
        session.state.optimizer.zero_grad()
        losses[step] = loss.item()
        if step + 1 in switches:
            reports.append(dynatrain.switch_parallelism(switches[step + 1]))
    session.close()
    return losses, reports


if __name__ == "__main__":
    dist.init_process_group("gloo")
    losses, reports = main()
    if dist.get_rank() == 0:
        print(losses, *reports, sep="\n")  # noqa: T201
    dist.destroy_process_group()
