"""A tensor set on a module as a plain attribute ends with a switch, and its report says so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import TrainState


class Gated(nn.Linear):
    """Keeps what its forward pass has computed, on a graph of autograd."""

    def __init__(self):
        super().__init__(3, 2)
        self.loss = None

    def forward(self, x):
        out = super().forward(x)
        self.loss = out.square().mean()
        return out


def build():
    model = nn.Sequential(Gated(), nn.Linear(2, 2))
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize(
    ("at", "name"), [(lambda model: model, "cache"), (lambda model: model[1], "1.cache")]
)
def test_a_tensor_that_the_script_has_set_is_named_in_the_report(start, at, name):
    session = start(build)
    at(session.state.model).cache = torch.ones(4)
    first, second = session.switch("dp=1"), session.switch("dp=1")

    (reason,) = first.not_continuous
    assert reason.startswith("1 tensors were set on modules as plain attributes")
    assert f"'{name}': build registers as a buffer what is to go on" in reason
    assert second.not_continuous == []


def test_what_build_makes_as_well_is_no_loss(start):
    def build_with_constant():
        state = build()
        state.model.cache = torch.ones(4, device="cpu")
        return state

    session = start(build_with_constant)

    assert session.switch("dp=1").not_continuous == []


# A loss beside the output, as routers of experts keep: the next forward pass computes it again.
def test_what_a_forward_pass_left_on_its_graph_is_no_loss(start):
    session = start(build)
    session.state.model(torch.ones(1, 3))

    assert session.state.model[0].loss.grad_fn is not None
    assert session.switch("dp=1").not_continuous == []


def test_another_name_of_what_travels_is_no_loss(start):
    session = start(build)
    session.state.model.__dict__["alias"] = session.state.model[1].weight

    assert session.switch("dp=1").not_continuous == []
