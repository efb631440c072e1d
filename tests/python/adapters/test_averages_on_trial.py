"""Averages of the weights, tried before days of training: whether they take what they are given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState


class Average:
    """By the names of the parameters, as most are; hands out copies."""

    def __init__(self, model):
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    def state_dict(self):
        return {name: tensor.clone() for name, tensor in self.shadow.items()}

    def load_state_dict(self, state):
        self.shadow = dict(state)


class InPlace(Average):
    def load_state_dict(self, state):
        for name, tensor in state.items():
            self.shadow[name].copy_(tensor)


class Picky(Average):
    """Looks at the numbers."""

    def load_state_dict(self, state):
        if not all(tensor.any() for tensor in state.values()):
            raise ValueError("an average of nothing")
        super().load_state_dict(state)


def build_with(kind):
    def build():
        model = nn.Linear(4, 4)
        return TrainState(model, torch.optim.SGD(model.parameters()), extra={"ema": kind(model)})

    return build


# init and check said that all was well, and the switch refused it days later.
def test_average_that_copies_in_place_is_refused_by_init(start):
    with pytest.raises(LayoutError, match=r"extra\.ema has no memory"):
        start(build_with(InPlace))


@pytest.mark.parametrize("kind", [Average, Picky])
def test_average_that_takes_tensors_over_travels(start, kind):
    session = start(build_with(kind))
    session.check("dp=1")

    assert session.switch("dp=1").epoch == 1
