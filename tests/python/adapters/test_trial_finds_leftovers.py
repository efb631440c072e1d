"""What a switch would leave on meta is refused by `init` and `check`, not days later."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import utils
from torch.optim.swa_utils import AveragedModel

from dynatrain import LayoutError, TrainState


def fill(state, world):
    with torch.no_grad():
        for param in state.model.parameters():
            param.fill_(0.5)


class Clipper:
    """Keeps a running norm in its state, and what it computes with beside it."""

    def __init__(self, beside):
        self.norm = 0.0
        self.beside = beside()

    def state_dict(self):
        return {"norm": self.norm}

    def load_state_dict(self, state_dict):
        self.norm = state_dict["norm"]


def with_clipper(beside):
    model = nn.Linear(3, 2)
    return TrainState(model, extra={"clip": Clipper(beside)})


# To torch, `grad.mul_(scale)` with a scale on meta is an error on one device and nothing on others.
@pytest.mark.parametrize("initialize", [None, fill])
def test_a_tensor_beside_the_state_dict_of_an_extra_is_refused_by_init(start, initialize):
    with pytest.raises(LayoutError, match=r"'extra\.clip\.beside\[0\]' has no memory"):
        start(lambda: with_clipper(lambda: [torch.zeros(3)]), initialize=initialize)


# `initialize` runs once, and no switch after it would.
def test_what_initialize_gives_memory_to_once_is_refused_all_the_same(start):
    def once(state, world):
        fill(state, world)
        state.extra["clip"].beside = torch.ones(3)

    with pytest.raises(LayoutError, match=r"extra\.clip\.beside"):
        start(lambda: with_clipper(lambda: torch.zeros(3)), initialize=once)


def test_check_says_it_of_a_build_that_changed(start):
    made = [list]
    session = start(lambda: with_clipper(made[-1]))
    made.append(lambda: [torch.zeros(3)])

    with pytest.raises(LayoutError, match=r"extra\.clip\.beside"):
        session.check("dp=1")
    made.pop()
    session.switch("dp=1")


class Loading(Clipper):
    """Its tensors come with what it loads."""

    def __init__(self):
        self.mean = torch.zeros(3)

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state_dict):
        self.mean = state_dict["mean"]


def averaged():
    model = nn.Linear(3, 2)
    average = AveragedModel(model, use_buffers=True)
    return TrainState(model, extra={"ema": average, "mean": Loading()}, per_rank=["ema"])


# A trial takes no memory: what a switch gives memory to is nothing that is left.
def test_extras_that_a_switch_gives_memory_to_pass_the_trial(start):
    session = start(averaged)
    session.check("dp=1")
    session.switch("dp=1")

    assert not any(param.is_meta for param in session.state.extra["ema"].parameters())
    assert not session.state.extra["mean"].mean.is_meta


NODES = []


def held():
    model = nn.Linear(3, 2)
    NODES.append(model.weight.expand_as(model.weight).grad_fn.next_functions[0][0])
    return TrainState(model)


# The optimizer in the backward pass would never run again, from the first switch on.
@pytest.mark.parametrize("initialize", [None, fill])
def test_a_parameter_that_autograd_holds_is_refused_by_init(start, initialize):
    with pytest.raises(LayoutError, match=r"autograd holds 'weight\|param'"):
        start(held, initialize=initialize)
    NODES.clear()


# Older normalization keeps a graph on the meta device, which the trial has to end as a switch does.
@pytest.mark.parametrize("change", [utils.weight_norm, utils.spectral_norm])
def test_derived_attributes_hold_nothing(start, change):
    session = start(lambda: TrainState(change(nn.Linear(3, 2))))
    session.check("dp=1")
    session.switch("dp=1")

    assert session.state.model(torch.ones(1, 3)).requires_grad
