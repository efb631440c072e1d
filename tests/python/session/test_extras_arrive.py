"""Extras of one rank arrive and count in the fingerprint, or are refused by their names."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from dynatrain import LayoutError, TrainState
from held_values import Counted, Notes, Scaled, Shadow, model, train


def test_extra_state_of_modules_arrives(start_verified):
    def build(world):
        net = nn.Sequential(Scaled(), Scaled())
        return TrainState(net, torch.optim.SGD(net.parameters(), lr=0.1))

    session = start_verified(build)
    session.state.model[0].largest = [1.0, 2.0]
    session.state.model[1].largest = [3.0]
    report = session.switch("dp=1")

    assert [layer.largest for layer in session.state.model] == [[1.0, 2.0], [3.0]]
    assert report.fingerprint_before == report.fingerprint_after


# A fingerprint of the elements alone says "same state" of another learning rate.
@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.optimizer.param_groups[0].update(lr=0.3),
        lambda state: setattr(state.model[0], "largest", [5.0]),
        lambda state: state.extra["counter"].update(n=1),
        lambda state: setattr(state.optimizer, "num_steps", 4),
        lambda state: setattr(state.scheduler, "last_epoch", 4),
    ],
    ids=["option", "extra state of a module", "extra", "beside the optimizer", "scheduler"],
)
def test_fingerprint_changes_with_every_value_that_travels(start_verified, change):
    def build(world):
        net = nn.Sequential(Scaled())
        optimizer = Counted(net.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        return TrainState(net, optimizer, scheduler, extra={"counter": Notes(n=0)})

    session = start_verified(build)
    before = session.fingerprint()
    change(session.state)

    assert session.fingerprint() != before


# load_state_dict of a module copies into what is there: on meta, nothing at all.
@pytest.mark.parametrize("assigns", [True, False])
def test_average_of_the_weights_as_extra_arrives(start_verified, assigns):
    def build(world):
        net = model()
        ema = AveragedModel(net) if assigns else Shadow(net)
        return TrainState(net, torch.optim.SGD(net.parameters(), lr=0.1), extra={"ema": ema})

    session = start_verified(build)
    for _ in range(3):
        train(session.state)
        session.state.extra["ema"].update_parameters(session.state.model)
    before = {k: v.clone() for k, v in session.state.extra["ema"].state_dict().items()}
    report = session.switch("dp=1")

    after = session.state.extra["ema"].state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert report.fingerprint_before == report.fingerprint_after
    session.state.extra["ema"].update_parameters(session.state.model)


class Copying(Shadow):
    """Hands out copies and loads into what is there: on meta that is nothing."""

    def __init__(self, module):
        self.shadow = {"": torch.zeros(3)}

    def state_dict(self):
        return {name: tensor.clone() for name, tensor in self.shadow.items()}


def test_extra_that_stays_on_meta_is_refused_by_name(start_verified):
    def build(world):
        net = model()
        return TrainState(net, extra={"average": Copying(net)})

    with pytest.raises(LayoutError, match=r"extra\.average has no memory"):
        start_verified(build)


class Broken(Notes):
    def state_dict(self):
        raise KeyError("gone")


class Unpicklable(Notes):
    def state_dict(self):
        return {"hook": lambda: None}


class Strange(Notes):
    def load_state_dict(self, state_dict):
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", [Broken, Unpicklable, Strange])
def test_error_of_an_extra_is_refused_by_its_name(start_verified, kind):
    def build(world):
        net = model()
        return TrainState(net, torch.optim.SGD(net.parameters(), lr=0.1), extra={"odd": kind()})

    with pytest.raises(LayoutError, match=r"extra\.odd"):
        start_verified(build)


class Counting(nn.Linear):
    """A module that counts beside its parameters."""

    updates = 0

    def state_dict(self, *args, **kwargs):
        return {**super().state_dict(*args, **kwargs), "updates": self.updates}


# Only its tensors would arrive; the count began anew and nothing was said.
def test_module_that_hands_over_more_than_tensors_is_refused_as_an_extra(start_verified):
    def build(world):
        net = model()
        return TrainState(
            net, torch.optim.SGD(net.parameters(), lr=0.1), extra={"ema": Counting(3, 2)}
        )

    with pytest.raises(LayoutError, match=r"extra\.ema(.|\n)*'updates'"):
        start_verified(build)
