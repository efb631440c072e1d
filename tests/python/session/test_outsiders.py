"""What trains a state and is no part of it: its moments would begin anew at a switch."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer

from dynatrain import LayoutError, TrainState
from dynatrain.adapters.torch import TorchAdapter


class Script:
    """A script that holds optimizers of its own over the layers that it is told."""

    def __init__(self, *, held=(), given=(), make=torch.optim.AdamW):
        self.held_layers, self.given_layers, self.make = held, given, make
        self.held = []

    def build(self, world):
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        self.held = [self.make(model[n].parameters(), lr=0.1) for n in self.held_layers]
        given = [torch.optim.AdamW(model[n].parameters(), lr=0.1) for n in self.given_layers]
        return TrainState(model, given or None)

    def step(self, state):
        state.model(torch.ones(1, 3)).sum().backward()
        for optimizer in (*self.held, *state.optimizers):
            optimizer.step()
        state.model.zero_grad()


@pytest.mark.parametrize(("held", "given"), [((0, 1), ()), ((0,), (1,)), ((0,), (0, 1))])
def test_an_optimizer_beside_the_state_that_has_stepped_it_is_refused(start_alone, held, given):
    script = Script(held=held, given=given)
    session = start_alone(script.build)
    script.step(session.state)
    for call in (session.check, session.prepare, session.switch):
        with pytest.raises(LayoutError) as caught:
            call("dp=1")
        assert "a torch.optim.adamw.AdamW, has stepped '0.weight', '0.bias'" in str(caught.value)
        assert "TrainState(model, optimizer=...)" in str(caught.value)
    for optimizer in script.held:
        optimizer.state.clear()

    assert session.switch("dp=1").epoch == 1


def test_one_that_steps_behind_a_preparation_is_refused_by_the_switch(start_alone):
    script = Script(held=(0,), given=(1,))
    session = start_alone(script.build)
    model, held = session.state.model, list(script.held)
    session.prepare("dp=1")
    model[0](torch.ones(1, 3)).sum().backward()
    held[0].step()
    model.zero_grad()
    with pytest.raises(LayoutError, match=r"stepped '0\.weight'"):
        session.switch("dp=1")
    held[0].state.clear()

    assert session.switch("dp=1").prepared


# Nothing is lost: every build makes it as it was. Optimizers in the backward pass are often such.
def test_one_that_keeps_nothing_is_told_of_and_not_refused(start_alone):
    script = Script(held=(0,), given=(1,), make=torch.optim.SGD)
    session = start_alone(script.build)
    script.step(session.state)

    assert session.switch("dp=1").not_continuous == [
        "no optimizer of the state has 2 trainable parameters, '0.weight', '0.bias': what an "
        "optimizer elsewhere keeps of them was not moved"
    ]


class Carried:
    """An extra that hands an optimizer's state over by itself."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def state_dict(self):
        return {"lr": self.optimizer.param_groups[0]["lr"]}

    def load_state_dict(self, state_dict):
        self.optimizer.param_groups[0]["lr"] = state_dict["lr"]


def test_one_that_an_extra_carries_is_the_scripts_affair(start_alone):
    def build(world):
        model = nn.Linear(3, 2)
        return TrainState(model, extra={"own": Carried(torch.optim.AdamW(model.parameters()))})

    session = start_alone(build)
    session.state.model(torch.ones(1, 3)).sum().backward()
    session.state.extra["own"].optimizer.step()
    session.state.model.zero_grad()

    assert session.switch("dp=1").epoch == 1


def test_optimizers_of_other_models_are_none_of_it(start_alone):
    script = Script(given=(0, 1))
    session = start_alone(script.build)
    other = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(other.parameters())
    other(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    script.step(session.state)

    assert session.switch("dp=1").not_continuous == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), "4 trainable parameters, '0.weight', '0.bias', '1.weight' and 1 more"),
        ((1,), "2"),
    ],
)
def test_init_warns_once_of_parameters_that_no_optimizer_has(start_alone, caplog, given, words):
    with caplog.at_level(logging.WARNING, "dynatrain.session"):
        session = start_alone(Script(given=given).build)
        session.switch("dp=1")

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert words in caplog.text
    assert "let build return it" in caplog.text


def test_init_says_nothing_where_what_trains_has_an_optimizer(start_alone, caplog):
    def build(world):
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        model[0].requires_grad_(False)
        average = torch.optim.swa_utils.AveragedModel(model)
        return TrainState(
            model, torch.optim.SGD(model[1].parameters(), lr=0.1), extra={"average": average}
        )

    with caplog.at_level(logging.WARNING, "dynatrain.session"):
        session = start_alone(build)

    assert session.switch("dp=1").not_continuous == []
    assert not caplog.records


# A hook of all optimizers that stays is one more for every switch of a long job.
def test_the_hook_of_all_optimizers_ends_with_the_state():
    hooks = torch_optimizer._global_optimizer_post_hooks
    before = len(hooks)
    adapter = TorchAdapter(torch.device("cpu"))
    with adapter.undisturbed():
        state = adapter.build(lambda: Script(given=(0, 1)).build(None))
        adapter.retire(None, adapter.inventory(state), "dp=1")
    assert len(hooks) == before + 1
    with adapter.undisturbed():
        pass
    del state

    assert len(hooks) == before
