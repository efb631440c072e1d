"""What no switch moves is as build made it, and what the guide tells to do instead goes on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState

RAN: list[str] = []


class Counter:
    """What is to go on, in an object with both methods."""

    def __init__(self):
        self.count = 0

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Counting(nn.Linear):
    """A module that hands over what is to go on."""

    count = 0

    def get_extra_state(self):
        return self.count

    def set_extra_state(self, state):
        self.count = state


def build(world):
    model = nn.Sequential(nn.Linear(3, 4), Counting(4, 2))
    model.count, model.generator = 0, torch.Generator()
    model[0].weight.mark = 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.count = 0
    return TrainState(model, optimizer, extra={"counter": Counter()})


def train(state):
    RAN.clear()
    state.model(torch.zeros(1, 3)).sum().backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    return list(RAN)


def hook(module):
    module[0].register_forward_hook(lambda *args: RAN.append("forward"))
    module[0].weight.register_hook(lambda grad: RAN.append("parameter"))
    module[0].weight.register_post_accumulate_grad_hook(lambda param: RAN.append("later"))


# A hook that a script registered once trained on in silence without it.
def test_hooks_that_a_script_registers_refuse_the_switch_and_run_on(start_alone):
    session = start_alone(build)
    hook(session.state.model)
    session.state.optimizer.register_step_post_hook(lambda *args: RAN.append("optimizer"))
    with pytest.raises(LayoutError, match="register it in build, or in on_world"):
        session.switch("dp=1")

    assert train(session.state) == ["forward", "parameter", "later", "optimizer"]


def test_plain_values_that_a_script_sets_end_with_the_switch(start_alone):
    session = start_alone(build)
    model, optimizer = session.state.model.eval(), session.state.optimizer
    model.count = optimizer.count = model[0].weight.mark = 5
    model.generator.manual_seed(77)

    session.switch("dp=1")
    model, optimizer = session.state.model, session.state.optimizer
    assert (model.count, optimizer.count, model[0].weight.mark) == (0, 0, 0)
    assert model.training
    assert model.generator.initial_seed() != 77


# What the guide tells to do instead.
def test_what_is_handed_over_and_what_a_kept_object_sets_goes_on(start_alone):
    class Hooks:
        def on_world(self, world):
            if world is not None and sessions:
                hook(sessions[0].state.model)

    sessions = []
    sessions.append(start_alone(build, keep={"hooks": Hooks()}))
    sessions[0].state.extra["counter"].count = 5
    sessions[0].state.model[1].count = 6
    sessions[0].state.optimizer.param_groups[0]["mine"] = 7

    sessions[0].switch("dp=1")
    state = sessions[0].state
    assert (state.extra["counter"].count, state.model[1].count) == (5, 6)
    assert state.optimizer.param_groups[0]["mine"] == 7
    assert train(state) == ["forward", "parameter", "later"]
