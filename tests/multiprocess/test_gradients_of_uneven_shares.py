"""However a global batch is cut, its gradient is that of one process that trains on all of it."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import dynatrain
import training_jobs as jobs
from dynatrain import ElasticLoader, ElasticSampler, TrainState

GLOBAL_BATCH = 10  # shares of 4, 3 and 3 samples in dp=3


def make_dataset():
    """No two samples weigh alike in the loss, so that none can stand for another."""
    inputs = torch.randn(35, jobs.WIDTH, generator=torch.Generator().manual_seed(7)).double()
    targets = torch.arange(35.0).double().unsqueeze(1) * torch.ones(7).double()
    return TensorDataset(inputs, targets)


def build(world):
    model = jobs.Mlp().double()
    if world.enabled("dp_shard"):
        for block in model.blocks:
            fully_shard(block, mesh=world.mesh["dp_shard"])
        fully_shard(model, mesh=world.mesh["dp_shard"])
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=1e-2))


def wrapped(session):
    """The model as the step calls it; replicas need the wrapper that averages their gradients."""
    model, world = session.state.model, session.world
    if not world.enabled("dp_replicate"):
        return model
    return DistributedDataParallel(model, process_group=world.group("dp_replicate"))


def gradient_of_all(model, samples):
    """The gradient and loss of the whole batch on one process, by torch alone."""
    alone = jobs.Mlp().double()
    alone.load_state_dict({name: jobs.whole(value) for name, value in model.state_dict().items()})
    inputs, targets = make_dataset()[samples]
    loss = mse_loss(alone(inputs), targets)
    loss.backward()
    return [param.grad for param in alone.parameters()], loss.detach()


def backward_of_share(session, loader):
    """Backward over this rank's share; returns what the ranks' losses have for a mean."""
    model = wrapped(session)  # it averages for as long as it is there
    batch, total = next(loader), 0.0
    for inputs, targets in [batch] if loader.micro_batch_size is None else batch:
        loss = mse_loss(model(inputs), targets) * loader.loss_weight(len(inputs))
        loss.backward()
        total += loss.detach()
    return mean_over_ranks(total, session.world)


def mean_over_ranks(loss, world):
    group = world.group("dp_replicate", "dp_shard")
    if group is not None:
        dist.all_reduce(loss, group=group)
    return loss / (world.size("dp_replicate") * world.size("dp_shard"))


def train(rank, world_size, layouts, micro_batch_size):
    """The largest difference between own and whole gradients and losses, in each layout."""
    dataset = make_dataset()
    sampler = ElasticSampler(len(dataset), GLOBAL_BATCH, shuffle=False, uneven_shares=True)
    loader = ElasticLoader(dataset, sampler, micro_batch_size=micro_batch_size)
    torch.manual_seed(0)
    session = dynatrain.init(build, layouts[0], keep={"data": loader}, timeout_s=600)
    found = {}
    for step in session.steps(len(layouts)):
        state = session.state
        samples = slice(step * GLOBAL_BATCH, (step + 1) * GLOBAL_BATCH)
        expected, expected_loss = gradient_of_all(state.model, samples)
        loss = backward_of_share(session, loader)
        own = [jobs.whole(param.grad) for param in state.model.parameters()]
        pairs = zip([*own, loss], [*expected, expected_loss], strict=True)
        found[layouts[step]] = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
        state.optimizer.step()
        state.optimizer.zero_grad()
        if step + 1 < len(layouts):
            session.switch(layouts[step + 1])
    return found


# With micro-batches of 2: 2 + 2, 2 + 1 and 2 + 1 in dp=3, 2 + 2 + 1 in dp=2, five in dp=1.
@pytest.mark.parametrize("micro_batch_size", [None, 2])
# With shares of 4, 3 and 3, the mean of the ranks' means is not the mean of the batch.
@pytest.mark.parametrize(
    "layouts",
    [("dp=3", "dp=2", "dp=1"), ("dp_replicate=3", "dp_replicate=2", "dp_replicate=3")],
    ids=["fully_shard", "DistributedDataParallel"],
)
def test_gradient_of_uneven_shares_is_that_of_the_whole_batch(pool, layouts, micro_batch_size):
    ranks = pool.run(train, layouts, micro_batch_size, world_size=3)

    assert ranks[0].keys() == set(layouts)
    assert max(value for found in ranks for value in found.values()) < 1e-12
