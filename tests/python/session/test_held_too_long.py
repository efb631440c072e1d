"""What a script holds of a state that a switch has replaced refuses to take part in training."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, SequentialLR, StepLR
from torch.optim.swa_utils import AveragedModel

from dynatrain import StaleStateError, TrainState


class Counter:
    """An extra of plain numbers."""

    def __init__(self):
        self.count = 0

    def update(self):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


SHARED = Counter()


def build(world):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inner = [ConstantLR(optimizer), StepLR(optimizer, 2)]
    return TrainState(
        model,
        optimizer,
        [SequentialLR(optimizer, inner, [2]), StepLR(optimizer, 5)],
        torch.amp.GradScaler("cpu"),
        extra={
            "counter": Counter(),
            "average": AveragedModel(model),
            "own": AveragedModel(model),
            "shared": SHARED,
        },
        per_rank=("own",),
    )


USES = {
    "a scheduler": lambda s: s.scheduler[1].step,
    "a scheduler in a list": lambda s: s.scheduler[0].step,
    "a scheduler inside of one": lambda s: s.scheduler[0]._schedulers[1].step,
    "a scheduler that is saved": lambda s: s.scheduler[1].state_dict,
    "a scaler": lambda s: lambda: s.scaler.scale(torch.ones(1)),
    "a scaler's update": lambda s: s.scaler.update,
    "a model or optimizer": lambda s: s.optimizer.state_dict,
    "a model or optimizer of both": lambda s: s.model.state_dict,
    "the extra 'counter'": lambda s: s.extra["counter"].update,
    "the extra 'counter' that is saved": lambda s: s.extra["counter"].state_dict,
    "the extra 'average'": lambda s: lambda: s.extra["average"].update_parameters(nn.Linear(1, 1)),
    "the extra 'own'": lambda s: lambda: s.extra["own"].update_parameters(nn.Linear(1, 1)),
}


# The learning rate stood still, and nothing said so: the scheduler drove an optimizer of the past.
@pytest.mark.parametrize("words", USES)
def test_what_belongs_to_a_replaced_state_refuses_its_use(start_alone, words):
    session = start_alone(build)
    held = SimpleNamespace(**session.state._fields)
    session.switch("dp=1")
    with pytest.raises(StaleStateError) as caught:
        USES[words](held)()

    assert re.split(" that| in|'s | of", words)[0] in str(caught.value)
    assert "the switch to dp=1 replaced" in str(caught.value)
    assert "read session.state again after every switch" in str(caught.value)


def test_the_present_ones_and_what_build_hands_over_again_go_on(start_alone):
    session = start_alone(build)
    session.switch("dp=1")
    session.check("dp=1")
    session.switch("dp=1")
    state = session.state
    state.optimizer.step()
    for each in (*state.scheduler, state.extra["counter"], SHARED):
        each.step() if hasattr(each, "step") else each.update()

    assert state.scaler.scale(torch.ones(1)).item() > 0
    assert (SHARED.count, state.extra["counter"].count) == (1, 1)
