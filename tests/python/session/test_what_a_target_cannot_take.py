"""What the build of a target cannot take is refused by its name, before anything moves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState
from held_values import Notes, Scaled, model, train


def refused(session, *words):
    """Switches, expects a refusal, and that the source trains on; returns the text."""
    before = {name: p.clone() for name, p in session.state.model.named_parameters()}
    with pytest.raises(LayoutError) as caught:
        session.switch("dp=1")
    for word in (*words, "intact"):
        assert word in str(caught.value)
    for name, param in session.state.model.named_parameters():
        assert torch.equal(param, before[name])
    train(session.state)
    return str(caught.value)


# It was done and said so; the next step raised a KeyError and the source was gone.
def test_another_class_of_optimizer_is_refused(start_verified):
    kinds = iter([torch.optim.AdamW, torch.optim.AdamW, torch.optim.Adamax])

    def build(world):
        net = model()
        return TrainState(net, next(kinds)(net.parameters(), lr=0.1))

    session = start_verified(build)
    train(session.state)
    refused(session, "Adamax", "AdamW")


def test_another_class_of_scheduler_is_refused(start_verified):
    lr = torch.optim.lr_scheduler
    stepped = [lambda o: lr.StepLR(o, 2)] * 2  # of init's trial, and of the first build
    kinds = iter([*stepped, lambda o: lr.CosineAnnealingLR(o, 9)])

    def build(world):
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        return TrainState(net, optimizer, next(kinds)(optimizer))

    refused(start_verified(build), "CosineAnnealingLR", "StepLR")


# The state of a scheduler counts groups by place: its next step raised, or gave a group the
# learning rate of another one.
@pytest.mark.parametrize("mistake", ["left out", "swapped"])
def test_groups_that_are_not_where_the_scheduler_counts_them_are_refused(start_verified, mistake):
    target = []

    def build(world):
        net = model()
        groups = [
            {"params": [net[0].weight, net[1].weight], "lr": 0.1},
            {"params": [net[0].bias, net[1].bias], "lr": 0.2},
        ]
        if target == ["left out"]:
            groups = groups[:1]
        elif target == ["swapped"]:
            groups.reverse()
        optimizer = torch.optim.SGD(groups)
        return TrainState(net, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2))

    session = start_verified(build)
    target.append(mistake)
    refused(session, "scheduler", "group")
    target.clear()
    session.switch("dp=1")
    assert session.state.scheduler.base_lrs == [0.1, 0.2]


# All state was dropped with the "replaced" state, which was the new one.
@pytest.mark.parametrize("what", ["the TrainState of an earlier call", "optimizer"])
def test_build_that_returns_the_present_state_again_is_refused(start_verified, what):
    made = []

    def build(world):
        if made and what != "optimizer":
            return made[0]
        net = model()
        optimizer = made[0].optimizer if made else torch.optim.AdamW(net.parameters())
        return TrainState(net, optimizer)

    session = start_verified(build)
    made.append(session.state)
    refused(session, what, "inside build")


def test_scheduler_of_another_optimizer_is_refused(start_verified):
    made = []

    def build(world):
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        made.append(torch.optim.lr_scheduler.StepLR(optimizer, 2))
        return TrainState(net, optimizer, made[0])

    refused(start_verified(build), "drives an optimizer")


# State that nobody takes is lost, and the target trains on without it.
@pytest.mark.parametrize("lost", ["scheduler", "extra.counter", "modules of '1'"])
def test_state_that_no_rank_of_the_target_takes_is_refused(start_verified, lost):
    again = []

    def build(world):
        second = nn.Linear(3, 3) if again == ["modules of '1'"] else Scaled()
        net = nn.Sequential(Scaled(), second)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        return TrainState(
            net,
            optimizer,
            None if again == ["scheduler"] else scheduler,
            extra={} if again == ["extra.counter"] else {"counter": Notes()},
        )

    session = start_verified(build)
    again.append(lost)
    refused(session, lost, "no rank")


# A group added in the middle of a run, or a filter that differs: a parameter would stand still from
# the switch on.
def test_parameter_that_no_optimizer_of_the_target_has_is_refused(start_verified):
    def build(world):
        net = model()
        return TrainState(net, torch.optim.SGD(net[0].parameters(), lr=0.1))

    session = start_verified(build)
    session.state.optimizer.add_param_group({"params": list(session.state.model[1].parameters())})
    refused(session, "param_groups of '1.bias'", "no rank")


def test_extra_that_is_per_rank_in_the_target_alone_is_refused(start_verified):
    calls = []

    def build(world):
        calls.append(1)
        net = model()
        per_rank = ["counter"] if len(calls) > 2 else []
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        return TrainState(net, optimizer, extra={"counter": Notes()}, per_rank=per_rank)

    refused(start_verified(build), "extra.counter", "no rank")


def test_scheduler_without_state_is_refused_at_once():
    with pytest.raises(LayoutError, match=r"scheduler\.1 is of type object"):
        TrainState(model(), scheduler=[Notes(), object()])
