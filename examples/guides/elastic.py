"""A script whose processes come and go; see docs/guide/elastic.md.

python examples/guides/elastic.py HOST:PORT, once for each process, while the coordinator runs
"""

import argparse
import logging
import signal
import sys
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import TensorDataset

import dynatrain
from dynatrain.join import join

GLOBAL_BATCH = 24


def build(world: dynatrain.World) -> dynatrain.TrainState:
    """Build the model and its optimizer; called for every world."""
    model = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 1))
    if world.enabled("dp_shard"):
        fully_shard(model, mesh=world.submesh("dp"))
    return dynatrain.TrainState(model, torch.optim.AdamW(model.parameters(), lr=1e-2))


def make_loader() -> dynatrain.ElasticLoader:
    """Return a loader over points of a smooth function, the same in every process."""
    inputs = torch.randn(1000, 8, generator=torch.Generator().manual_seed(1))
    dataset = TensorDataset(inputs, inputs.sin().sum(dim=1, keepdim=True))
    sampler = dynatrain.ElasticSampler(len(dataset), GLOBAL_BATCH, uneven_shares=True)
    return dynatrain.ElasticLoader(dataset, sampler, micro_batch_size=4)


def average_over_replicas(model: nn.Module, world: dynatrain.World) -> None:
    """Average gradients where replicas are whole; fully_shard does it where there are shards."""
    if world.enabled("dp_replicate") and not world.enabled("dp_shard"):
        for param in model.parameters():
            dist.all_reduce(param.grad, group=world.group("dp_replicate"))
            param.grad /= world.size("dp_replicate")


def train_one_step(
    state: dynatrain.TrainState, world: dynatrain.World, loader: dynatrain.ElasticLoader
) -> float:
    """Train on this rank's share of the step's batch; returns what it adds to the mean loss."""
    total = 0.0
    for inputs, targets in next(loader):
        loss = nn.functional.mse_loss(state.model(inputs), targets)
        loss = loss * loader.loss_weight(len(inputs))
        loss.backward()
        total += loss.item()
    average_over_replicas(state.model, world)
    state.optimizer.step()
    state.optimizer.zero_grad()
    return total


def main() -> None:
    """Take part until all steps are done, or until this process is let go."""
    parser = argparse.ArgumentParser()
    parser.add_argument("coordinator", metavar="HOST:PORT")
    parser.add_argument("--secret-file", default="dynatrain.secret")
    parser.add_argument("--steps", type=int, default=3000, help="(default: %(default)s)")
    parser.add_argument(
        "--pause-s",
        type=float,
        default=0.1,
        help="of each step, so that there is time to look (default: %(default)s)",
    )
    parser.add_argument("--status-if-left", type=int, default=0, help="exit status, of a launcher")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    loader = make_loader()
    session = join(
        build, options.coordinator, secret_file=options.secret_file, keep={"data": loader}
    )
    signal.signal(signal.SIGTERM, lambda *_: session.leave(grace_s=30))
    for step in session.steps(options.steps):
        with session.recoverable():
            loss = train_one_step(session.state, session.world, loader)
            logging.info("step %d in %s: loss %.4f", step, session.world, loss)
        time.sleep(options.pause_s)
    logging.info("ended: %s", session.ended[0])
    session.close()
    sys.exit(0 if session.ended[0] == "finished" else options.status_if_left)


if __name__ == "__main__":
    main()
