"""A state that is read again is described anew where a tensor of it is another, and only there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState
from dynatrain.adapters.torch import TorchAdapter

ADAPTER = TorchAdapter(torch.device("cpu"))


def built():
    def make():
        model = nn.Linear(3, 2)
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.ones(3)).sum().backward()
        optimizer.step()
        model.register_buffer("mean", torch.zeros(2, 2, dtype=torch.complex64))
        return TrainState(model, optimizer)

    return ADAPTER.build(make)


def table_of(state):
    return ADAPTER.inventory(state).table()


# Describing is what a reading costs: a prepared switch makes two of what a preparation has read.
def test_a_state_that_stays_as_it_is_has_one_table():
    state = built()

    assert table_of(state) is table_of(state)


def other_memory(state):
    state.model.weight.data = state.model.weight.detach().clone()


def other_strides(state):
    state.model.mean.as_strided_((2, 2), (1, 2))


def other_shape(state):
    state.model.mean.resize_(4)


def other_dtype(state):
    state.model.mean = state.model.mean.view(torch.int64)


def other_reading(state):
    state.model.mean = state.model.mean.conj()


def other_tensor(state):
    state.optimizer.state[state.model.bias]["exp_avg"] = torch.zeros(2)


def other_name(state):
    slots = state.optimizer.state[state.model.bias]
    slots["mean"] = slots.pop("exp_avg")


def one_more(state):
    state.model.register_buffer("more", torch.zeros(1))


def one_less(state):
    del state.optimizer.state[state.model.bias]["exp_avg"]


# A table that outlives what it says would move bytes from memory that the state has left.
@pytest.mark.parametrize(
    "change",
    [
        other_memory,
        other_strides,
        other_shape,
        other_dtype,
        other_reading,
        other_tensor,
        other_name,
        one_more,
        one_less,
    ],
)
def test_a_state_that_changed_is_described_anew(change):
    state = built()
    before = table_of(state)

    change(state)

    after = table_of(state)
    assert after is not before
    fresh = TorchAdapter(torch.device("cpu")).inventory(state).table()
    assert (after.encode(), after.data_ptrs()) == (fresh.encode(), fresh.data_ptrs())
    assert after.signature() != before.signature()


# What one reading has accepted must not let the next one pass.
def test_what_cannot_be_described_is_refused_in_a_later_reading_as_well():
    state = built()
    table_of(state)
    state.model.mean = torch.zeros(4).to_sparse()

    for _ in range(2):
        with pytest.raises(LayoutError, match=r"layout torch\.sparse_coo"):
            table_of(state)


# Meshes hold the groups of a world that is over.
def test_a_retired_state_keeps_no_description():
    state, successor = built(), built()
    table_of(state)
    described = ADAPTER._built[state].described

    ADAPTER.retire(state, ADAPTER.inventory(successor), "dp=1")

    assert (described.names, described.known, described.table) == ((), (), None)
