"""Options of a group that mean something only beside its own parameters, in their order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState
from published_values import published


def state_of(names):
    """A stage with the given layers and one group."""
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in names})
    return TrainState(model, torch.optim.AdamW(model.parameters(), lr=0.1))


def options_arrive(adapter, option, after):
    source, target = state_of(["a", "b"]), state_of(after)
    source.optimizer.param_groups[0]["own"] = option(source.optimizer.param_groups[0]["params"])
    adapter.check_values(adapter.inventory(target), published(source), 0)
    return target.optimizer.param_groups[0]["own"]


BY_PLACE = [
    lambda params: [0 for _ in params],
    lambda params: [torch.zeros_like(param) for param in params],
    lambda params: deque(torch.zeros_like(param) for param in params),
]


# A stage got the whole model's list, and zipped its parameters with another one's momenta.
@pytest.mark.parametrize("option", BY_PLACE)
def test_list_by_place_is_refused_where_the_parameters_change(adapter, option):
    with pytest.raises(LayoutError, match="goes by the place"):
        options_arrive(adapter, option, ["b"])


@pytest.mark.parametrize("option", BY_PLACE)
def test_list_by_place_travels_where_the_parameters_stay(adapter, option):
    assert len(options_arrive(adapter, option, ["a", "b"])) == 4


# The optimizer's own options are not by place, however many there are of them.
def test_options_that_the_optimizer_knows_travel(adapter):
    source, target = state_of(["a", "b"]), state_of(["b"])
    source.optimizer.param_groups[0]["betas"] = [0.5, 0.6]
    adapter.check_values(adapter.inventory(target), published(source), 0)

    assert target.optimizer.param_groups[0]["betas"] == [0.5, 0.6]


@dataclass
class Box:
    held: torch.Tensor


# Whole in the source, whole in the target: beside a shard the next step cannot add it up.
@pytest.mark.parametrize("wrap", [lambda t: {t}, lambda t: Box(t), lambda t: {0: Box(t)}])
def test_tensor_in_any_container_of_an_optimizer_is_seen(adapter, wrap):
    source, target = state_of(["a", "b"]), state_of(["b"])
    for param in source.model.parameters():
        source.optimizer.state[param]["history"] = wrap(torch.zeros(3))

    with torch.serialization.safe_globals([Box]), pytest.raises(LayoutError, match="history"):
        adapter.check_values(adapter.inventory(target), published(source), 0)
