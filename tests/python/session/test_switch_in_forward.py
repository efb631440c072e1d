"""A switch inside of a forward pass is refused; modules of the script are none of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState


class Switching(nn.Module):
    """Calls a switch in its forward pass when it is told to."""

    def __init__(self):
        super().__init__()
        self.session = None

    def forward(self, x):
        if self.session is not None:
            self.session.switch("dp=1")
        return x


# It was done, and what was left of the pass ran on parameters without memory.
@pytest.mark.parametrize(("place", "words"), [(1, "module '1'"), (None, "the model")])
def test_a_switch_inside_of_a_forward_pass_is_refused_by_the_module(start_alone, place, words):
    def model(world):
        layers = [nn.Linear(3, 3), Switching()] if place else [Switching()]
        if place is None:
            layers[0].lin = nn.Linear(3, 3)
        made = nn.Sequential(*layers) if place else layers[0]
        return TrainState(made, torch.optim.SGD(made.parameters(), lr=0.1))

    session = start_alone(model)
    whole = session.state.model
    switching = whole[place] if place else whole
    switching.session = session
    with pytest.raises(LayoutError) as caught:
        whole(torch.ones(1, 3))
    switching.session = None

    assert f"inside the forward pass of {words}\n" in str(caught.value)
    assert "the last thing in the loop's body" in str(caught.value)
    assert session.switch("dp=1").epoch == 1


# A trainer may be a module of torch, and trains in what it calls its forward pass.
def test_a_switch_inside_of_a_module_of_the_script_is_none_of_it(start_alone):
    trainer = Switching()
    trainer.session = start_alone(lambda world: TrainState(nn.Linear(3, 2)))

    trainer(torch.ones(1, 3))

    assert trainer.session.world.epoch == 1
