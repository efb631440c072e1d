"""A script whose processes come and go; see docs/guide/elastic.md.

python examples/guides/elastic.py HOST:PORT, once for each process, while the coordinator runs
"""

import argparse
import logging
import signal
import time

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

import dynatrain
from dynatrain.join import join

GLOBAL_BATCH = 24


def build(world: dynatrain.World) -> dynatrain.TrainState:
    """Build the model and its optimizer; called for every world."""
    model = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 1))
    if world.enabled("dp_shard"):
        fully_shard(model, mesh=world.mesh["dp_shard"])
    return dynatrain.TrainState(model, torch.optim.AdamW(model.parameters(), lr=1e-2))


def train_one_step(state: dynatrain.TrainState, world: dynatrain.World, step: int) -> float:
    """Train on this rank's share of the step's batch; returns its loss."""
    inputs = torch.randn(GLOBAL_BATCH, 8, generator=torch.Generator().manual_seed(step))
    mine = inputs.chunk(world.size("dp_shard"))[world.coordinate("dp_shard")]
    loss = (state.model(mine) - mine.sin().sum(dim=1, keepdim=True)).square().mean()
    loss.backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    return float(loss)


def main() -> None:
    """Take part until all steps are done, or until the others go on without this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("coordinator", metavar="HOST:PORT")
    parser.add_argument("--secret-file", default="dynatrain.secret")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pause-s", type=float, default=0.1, help="so that there is time to look")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    session = join(build, options.coordinator, secret_file=options.secret_file)
    signal.signal(signal.SIGTERM, lambda *_: session.leave(grace_s=30))
    for step in session.steps(options.steps):
        with session.recoverable():
            loss = train_one_step(session.state, session.world, step)
            logging.info("step %d in %s: loss %.4f", step, session.world, loss)
        time.sleep(options.pause_s)
    logging.info("ended: %s", session.ended[0])
    session.close()


if __name__ == "__main__":
    main()
