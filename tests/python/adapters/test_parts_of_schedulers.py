"""Containers of schedulers: one for each part of a model, and layouts with more or fewer parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, ExponentialLR, LinearLR, SequentialLR, StepLR

from dynatrain import LayoutError, TrainState
from dynatrain.adapters.torch import TorchAdapter
from dynatrain.adapters.torch.schedulers import kinds
from published_values import published

TORCH = TorchAdapter(torch.device("cpu"))


class FirstOfAll:
    """Hands over what its first scheduler has, as torchtitan's container does."""

    def __init__(self, schedulers):
        self.schedulers = schedulers

    def step(self):
        for scheduler in self.schedulers:
            scheduler.step()

    def state_dict(self):
        return self.schedulers[0].state_dict()

    def load_state_dict(self, state_dict):
        for scheduler in self.schedulers:
            scheduler.load_state_dict(state_dict)


class ListOfAll(FirstOfAll):
    """Hands over a list, an entry for each part; it takes no other number of them."""

    def state_dict(self):
        return {"schedulers": [scheduler.state_dict() for scheduler in self.schedulers]}

    def load_state_dict(self, state_dict):
        for scheduler, state in zip(self.schedulers, state_dict["schedulers"], strict=True):
            scheduler.load_state_dict(state)


def state_of(container, num_parts, kind=StepLR):
    """Four layers in ``num_parts`` parts, an optimizer and a scheduler for each."""
    parts = [nn.Module() for _ in range(num_parts)]
    for layer in range(4):
        parts[layer * num_parts // 4].add_module(f"layer{layer}", nn.Linear(2, 2))
    optimizers = [torch.optim.SGD(part.parameters(), lr=1.0) for part in parts]
    made = [kind(optimizer, 2) for optimizer in optimizers]
    return TrainState(parts, optimizers, container(made))


def rates(state):
    return [scheduler.get_last_lr() for scheduler in state.scheduler.schedulers]


# A pipeline with two chunks on each rank has twice the schedulers of one with one.
@pytest.mark.parametrize("container", [FirstOfAll, ListOfAll])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (4, 2)])
def test_another_number_of_parts_takes_the_same_learning_rate(container, before, after):
    source, target = state_of(container, before), state_of(container, after)
    for _ in range(5):
        for optimizer in source.optimizers:
            optimizer.step()
        source.scheduler.step()

    TORCH.check_values(TORCH.inventory(target), published(source), 0)

    assert rates(target) == [rates(source)[0]] * after
    assert [one.last_epoch for one in target.scheduler.schedulers] == [5] * after


# An uneven pipeline has ranks with two parts beside ranks with one, in one layout.
@pytest.mark.parametrize("container", [FirstOfAll, ListOfAll])
def test_ranks_with_more_parts_than_others_mean_the_same(container):
    sources = state_of(container, 1), state_of(container, 2)

    TORCH.check_values(TORCH.inventory(state_of(container, 4)), published(*sources), 0)


def test_parts_of_another_class_are_refused_with_both_classes():
    source, target = state_of(FirstOfAll, 2), state_of(FirstOfAll, 1, ExponentialLR)

    with pytest.raises(LayoutError, match=r"ExponentialLR[\s\S]*expected .*StepLR"):
        TORCH.check_values(TORCH.inventory(target), published(source), 0)


class AsManyAsThereAre(ListOfAll):
    """Takes any number of entries: what is left over is lost, or left as it was, without a word."""

    def load_state_dict(self, state_dict):
        for scheduler, state in zip(self.schedulers, state_dict["schedulers"], strict=False):
            scheduler.load_state_dict(state)


# What parts learned apart has no place in one of them.
@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 4)])
def test_parts_that_differ_are_refused_where_their_number_changes(before, after):
    source, target = state_of(AsManyAsThereAre, before), state_of(AsManyAsThereAre, after)
    source.optimizers[1].step()
    source.scheduler.schedulers[1].step()

    with pytest.raises(LayoutError, match=f"{before} parts of a scheduler differ"):
        TORCH.check_values(TORCH.inventory(target), published(source), 0)


def test_parts_that_differ_arrive_where_their_number_stays():
    source, target = state_of(ListOfAll, 2), state_of(ListOfAll, 2)
    source.optimizers[1].step()
    source.scheduler.schedulers[1].step()

    TORCH.check_values(TORCH.inventory(target), published(source), 0)

    assert [one.last_epoch for one in target.scheduler.schedulers] == [0, 1]


# Phases in time are no parts: in another order each would load the other's state.
def test_phases_that_follow_each_other_are_told_by_their_order():
    def phased(*made):
        optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
        return SequentialLR(optimizer, [kind(optimizer) for kind in made], [3] * (len(made) - 1))

    assert kinds(phased(LinearLR, ConstantLR)) != kinds(phased(ConstantLR, LinearLR))
    assert kinds(phased(LinearLR, LinearLR)) != kinds(phased(LinearLR))


class Trainer:
    """Holds a scheduler that knows who holds it."""

    def __init__(self, optimizer, scheduler):
        self.optimizer, self.scheduler = optimizer, scheduler

    def load_state_dict(self, state_dict):
        raise AssertionError(state_dict)


# It ended in RecursionError, in `init`.
@pytest.mark.parametrize("of_parent", [True, False])
def test_a_scheduler_that_refers_back_is_looked_at_once(of_parent):
    state = state_of(FirstOfAll, 1)
    scheduler = state.scheduler.schedulers[0]
    scheduler.owner = Trainer(scheduler.optimizer, scheduler) if of_parent else scheduler

    TORCH.check_values(
        TORCH.inventory(state_of(FirstOfAll, 1)), published(state_of(FirstOfAll, 1)), 0
    )
    assert kinds(state.scheduler).count("StepLR") == 1
    assert kinds(scheduler).split()[0].endswith("StepLR")
