"""Tensors that a step has made one memory: a switch would take them apart, and refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState


def build():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))


def master_of_itself(state):
    for param in state.model.parameters():
        state.optimizer.state[param]["master"] = param.detach().float()  # no copy of float32


def main_parameter(state):
    for param in state.model.parameters():
        param.main = param.detach()


def two_slots_of_one_tensor(state):
    for param in state.model.parameters():
        one = torch.zeros_like(param)
        state.optimizer.state[param] |= {"a": one, "b": one.view_as(one)}


def one_scalar_for_all(state):
    step = torch.zeros(())
    for param in state.model.parameters():
        state.optimizer.state[param]["step"] = step


SHARE = [master_of_itself, main_parameter, two_slots_of_one_tensor, one_scalar_for_all]


# A rank that adopts memory keeps the sharing, one that receives loses it: replicas drift apart and
# nothing is said.
@pytest.mark.parametrize("share", SHARE)
def test_sharing_that_build_does_not_make_is_refused(start, share):
    session = start(build)
    share(session.state)

    with pytest.raises(LayoutError, match="one memory in the source, not after build"):
        session.check("dp=1")


# The refusal's last line.
def test_a_copy_in_its_place_travels(start):
    session = start(build)
    for param in session.state.model.parameters():
        param.main = param.detach().clone()

    assert session.switch("dp=1").epoch == 1


# Views of one flat memory that do not reach over each other are as good as memories of their own.
def test_neighbours_in_one_memory_travel(start):
    session = start(build)
    for param in session.state.model.parameters():
        flat = torch.zeros(2, *param.shape)
        session.state.optimizer.state[param] |= {"first": flat[0], "second": flat[1]}

    assert session.switch("dp=1").epoch == 1
