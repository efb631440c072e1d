"""What wraps a model or a tensor in a way that no switch can follow is refused with what works."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

import dynatrain
from dynatrain import LayoutError, TrainState
from what_travels.optimizers import Coded


# The constructor talks to all replicas; `initialize=`, which other collectives are sent to, cannot
# wrap what `build` has returned.
@pytest.mark.parametrize("options", [{}, {"device_ids": [0]}])
def test_ddp_in_build_is_refused_with_the_guide_that_shows_what_works(start, options):
    def build():
        return TrainState(DistributedDataParallel(nn.Linear(3, 2), **options))

    with pytest.raises(LayoutError, match=r"wraps a model in DistributedDataParallel") as caught:
        start(build)

    assert "on_world()" in str(caught.value)
    assert "docs/guide/ddp.md" in str(caught.value)
    assert "initialize=" not in str(caught.value).splitlines()[-1]


class Replicas:
    """What the guide says: the wrapper is made in every world."""

    def on_world(self, world):
        self.model = DistributedDataParallel(dynatrain.current_session().state.model)


def test_ddp_in_on_world_travels(start):
    def build():
        model = nn.Linear(3, 2)
        return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))

    replicas = Replicas()
    session = start(build, keep={"replicas": replicas})
    for _ in range(2):
        replicas.model(torch.ones(2, 3)).sum().backward()
        session.state.optimizer.step()
        session.state.optimizer.zero_grad()
        before = session.state.model.weight.detach().clone()
        session.switch("dp=1")

        assert torch.equal(session.state.model.weight, before)
        assert replicas.model.module is session.state.model


CPU = torch.device("cpu")


# torch's own words lead astray: to accelerators, to devices that do not fit, to numbers drawn.
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"device_id": CPU},
        {"device_id": CPU, "param_init_fn": lambda module: module.to_empty(device="cpu")},
        {"device_id": CPU, "param_init_fn": lambda module: None},
        {"device_id": CPU, "use_orig_params": False},
    ],
)
def test_flat_parameters_in_build_are_refused_with_what_cuts_each_by_itself(start, options):
    def build():
        return TrainState(FullyShardedDataParallel(nn.Linear(3, 2), **options))

    with pytest.raises(LayoutError, match=r"wraps a model in FullyShardedDataParallel") as caught:
        start(build)

    assert "fully_shard(model, mesh=" in str(caught.value).splitlines()[-1]


class Flattened:
    """Wraps the model in every world, as is right for DistributedDataParallel."""

    def on_world(self, world):
        model = dynatrain.current_session().state.model
        self.model = FullyShardedDataParallel(model, use_orig_params=True, device_id=CPU)


# Halves of one length passed for replicas of a whole parameter.
def test_flat_parameters_made_in_on_world_are_refused_by_the_switch(start):
    session = start(lambda: TrainState(nn.Linear(3, 2)), keep={"flattened": Flattened()})

    with pytest.raises(LayoutError, match=r"'weight' is a part of a flat parameter"):
        session.switch("dp=1")


def step(state):
    state.model(torch.ones(2, 3)).sum().backward()
    state.optimizer.step()
    state.optimizer.zero_grad()


# Bytes of the wrapper are nowhere: moved as a tensor, the moments would be zeros.
def test_an_optimizer_whose_states_wrap_tensors_is_refused_by_class_and_slot(start):
    def build():
        model = nn.Linear(3, 2)
        return TrainState(model, Coded(model.parameters()))

    session = start(build)
    step(session.state)

    with pytest.raises(LayoutError, match=r"'weight\|mean' has a Codes") as caught:
        session.switch("dp=1")

    assert "optimizers with 32-bit states" in str(caught.value)
    step(session.state)
