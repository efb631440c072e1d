"""Orthogonal parametrizations travel: their base is a buffer, also where there are no numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from dynatrain import TrainState


@pytest.fixture
def switched(start):
    """What a model computes before a switch and after it; ``switched(make)``."""

    def run(make):
        def build():
            model = make()
            return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))

        torch.manual_seed(0)
        session = start(build)
        inputs = torch.ones(2, session.state.model.in_features)
        session.state.model(inputs).square().mean().backward()
        session.state.optimizer.step()
        session.state.optimizer.zero_grad()
        before = session.state.model(inputs).detach().clone()
        session.switch("dp=1")
        return before, session.state.model(inputs).detach()

    return run


# Of a square weight `build` raised on meta; of any other, its base was missing there.
@pytest.mark.parametrize("orthogonal_map", ["matrix_exp", "cayley", "householder"])
@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)])
def test_an_orthogonal_weight_is_the_same_after_a_switch(switched, shape, orthogonal_map):
    before, after = switched(
        lambda: parametrizations.orthogonal(nn.Linear(*shape), orthogonal_map=orthogonal_map)
    )

    assert torch.equal(before, after)


def test_an_orthogonal_weight_without_a_base_is_the_same_after_a_switch(switched):
    before, after = switched(
        lambda: parametrizations.orthogonal(
            nn.Linear(4, 4), orthogonal_map="householder", use_trivialization=False
        )
    )

    assert torch.equal(before, after)
