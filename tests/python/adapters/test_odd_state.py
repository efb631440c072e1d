"""State that no rule fits is refused by its name, with what to do; none of it is a raw error."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState, _native
from dynatrain.adapters.port import Slots
from dynatrain.adapters.torch import TorchAdapter
from dynatrain.adapters.torch.meaning import difference
from published_values import published

TORCH = TorchAdapter(torch.device("cpu"))


def state_with(slots):
    """A layer whose weight has these slots."""
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    optimizer.state[layer.weight] = slots
    return TrainState(layer, optimizer)


def refusal(work):
    """The message of a refusal, which has all of its parts."""
    with pytest.raises(LayoutError) as caught:
        work()
    lines = str(caught.value).splitlines()
    assert len(lines) >= 4, caught.value
    assert "intact" in str(caught.value)
    return str(caught.value)


# Each of these ended in an AttributeError that named none of the user's things.
@pytest.mark.parametrize(
    "held", [[torch.zeros(2, 3)], (torch.zeros(2, 3), 4), torch.zeros(2, 3), None, 7]
)
def test_state_of_a_parameter_that_is_no_dict_is_refused_by_its_class(held):
    text = refusal(lambda: TORCH.inventory(state_with(held)))

    assert "'weight'" in text
    assert type(held).__name__ in text


# One of the two would have arrived in both.
def test_slots_that_share_a_name_once_their_path_is_written_are_refused():
    held = {"a/b": torch.zeros(2, 3), "a": {"b": torch.ones(2, 3)}}

    assert "'a/b'" in refusal(lambda: TORCH.inventory(state_with(held)))


# What was to blame was named as another tensor of the model, or as missing from it.
@pytest.mark.parametrize("slot", ["param", "buffer", ".main_grad", "first|second"])
def test_slot_named_as_other_tensors_are_is_told_to_be_renamed(slot):
    text = refusal(lambda: TORCH.inventory(state_with({slot: torch.zeros(2, 3)})))

    assert f"a slot named {slot!r}" in text
    assert "rename the slot" in text


class Named(nn.Module):
    """A model with an attribute of the name that an extra has."""

    def __init__(self):
        super().__init__()
        self.extra = nn.ModuleDict({"ema": nn.Linear(3, 2)})


# "unique across the pipeline stages" sent whoever has one stage on a long way.
def test_attribute_named_as_an_extra_is_told_to_be_renamed():
    state = TrainState(Named(), extra={"ema": nn.Linear(3, 2)})

    text = refusal(lambda: TORCH.inventory(state))
    assert "rename the model's attribute 'extra.ema'" in text


def map_of(state):
    table = TORCH.inventory(state).table()
    return _native.ShardMap.merge([(table.encode(), [0])])


# `getattr(torch, "complex64.conj")`: the target has no tensor of build's to be read alike.
def test_a_slot_that_is_a_conjugate_view_is_refused_by_its_name():
    source = state_with({"mean": torch.zeros(2, 3, dtype=torch.complex64).conj()})
    slots = Slots(map_of(source), TORCH.inventory(source).slot_notes())
    target = TORCH.build_on_meta(lambda: state_with({}), "here")

    text = refusal(lambda: TORCH.make_slots(target, slots))

    assert "'weight|mean'" in text
    assert "complex64.conj" in text


@pytest.mark.parametrize("key", [0, ("exp", "avg"), "odd name|with|bars", 1.5])
def test_keys_of_values_may_be_anything(key):
    source, target = state_with({key: 3}), state_with({})

    TORCH.check_values(TORCH.inventory(target), published(source), 0)
    TORCH.take_values(TORCH.inventory(target), published(source))

    assert target.optimizer.state[target.model.weight] == {key: 3}


class NoOptimizer:
    """Wraps an optimizer and is none."""

    def __init__(self, optimizer):
        self.optim = optimizer


@pytest.mark.parametrize("several", [True, False])
def test_what_is_no_optimizer_is_refused_by_its_class(several):
    layer = nn.Linear(2, 2)
    wrapped = NoOptimizer(torch.optim.SGD(layer.parameters(), lr=0.1))

    given = [wrapped] if several else wrapped

    assert "NoOptimizer" in refusal(lambda: TORCH.inventory(TrainState(layer, given)))


class OddStateDict(torch.optim.SGD):
    """Hands over nothing that torch would."""

    def state_dict(self):
        return None


def test_an_optimizer_whose_state_dict_is_no_dict_is_refused_by_its_class():
    layer = nn.Linear(2, 2)
    state = TrainState(layer, OddStateDict(layer.parameters(), lr=0.1))

    assert "OddStateDict" in refusal(lambda: TORCH.values(TORCH.inventory(state)))


class FixedList(list):
    """Cannot be made of its items."""

    def __init__(self, first, second):
        super().__init__([first, second])


class Extra:
    def __init__(self, tree):
        self.tree = tree

    def state_dict(self):
        return self.tree

    def load_state_dict(self, state_dict):
        self.tree = state_dict


# What holds no tensor of the map needs no copy, and so no way to make one.
@pytest.mark.parametrize(
    "tree", [FixedList(1, 2), types.MappingProxyType({"a": 1}), torch.Size([2, 3])]
)
def test_containers_without_tensors_of_the_map_are_left_as_they_are(tree):
    layer = nn.Linear(3, 2)
    inventory = TORCH.inventory(TrainState(layer, extra={"odd": Extra({"deep": tree})}))

    assert TORCH.values(inventory).shared["extra.odd"].state["deep"] is tree


def test_a_container_that_cannot_be_made_again_is_refused_by_the_name_of_its_extra():
    layer = nn.Linear(3, 2)
    tree = FixedList({"weight": torch.zeros(2, 3)}, 2)
    inventory = TORCH.inventory(TrainState(layer, extra={"odd": Extra({"deep": tree})}))

    assert "extra.odd" in refusal(lambda: TORCH.values(inventory))


class LikeAnArray:
    """Looks like an array of numpy, and has no dtype."""

    def __array__(self):
        return np.zeros(2)

    def tobytes(self):
        return b""


class Described:
    """A descriptor without a name of its own, as functools.partial is in newer Pythons."""

    def __init__(self, value):
        self.value = value

    def __get__(self, instance, owner):
        return self


@pytest.mark.parametrize("kind", [LikeAnArray, lambda: Described(1)])
def test_values_of_odd_classes_are_compared(kind):
    assert difference({"a": kind()}, {"a": kind()}) is None


def test_descriptors_that_hold_other_values_differ():
    assert difference(Described(1), Described(2)) is not None
