"""What is asked of values grows with what a rank holds, and not with its square."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState
from dynatrain.adapters.torch import TorchAdapter, groups, slots
from published_values import published

TORCH = TorchAdapter(torch.device("cpu"))


def factored(num_layers):
    """An optimizer that keeps a row for each weight, as Adafactor does."""
    model = nn.Sequential(*(nn.Linear(2, 3) for _ in range(num_layers)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for param in model.parameters():
        optimizer.state[param]["row"] = torch.ones(7)
    return TrainState(model, optimizer)


# Every parameter compared the names of all others.
def test_an_optimizer_is_held_against_its_source_once_however_many_parameters_it_has(monkeypatch):
    asked = []
    of = groups.Origins.all_of

    def counted(self, holder, live):
        asked.append(holder)
        return of(self, holder, live)

    monkeypatch.setattr(groups.Origins, "all_of", counted)
    counts = []
    for num_layers in (2, 20):
        asked.clear()
        TORCH.check_values(
            TORCH.inventory(factored(num_layers)), published(factored(num_layers)), 0
        )
        counts.append(len(asked))

    assert counts[0] == counts[1]


def test_what_no_rank_takes_is_named_and_what_one_takes_is_not():
    whole = published(TrainState(nn.Linear(2, 2), extra={"a": Counter(), "b": Counter()}))
    halves = [
        TORCH.check_values(TORCH.inventory(TrainState(nn.Linear(2, 2), extra=extra)), whole, rank)
        for rank, extra in enumerate([{"a": Counter()}, {"b": Counter()}])
    ]

    TORCH.check_left(whole, halves[0] | halves[1])
    with pytest.raises(LayoutError, match=r"'extra\.b', which no rank of the target takes"):
        TORCH.check_left(whole, halves[0])


class Counter:
    def state_dict(self):
        return {"value": 1}

    def load_state_dict(self, state_dict):
        assert state_dict == {"value": 1}


# A list of averages hashed the names of all parameters for each of its tensors.
def test_the_parameters_of_a_rank_are_told_once_for_each_extra(monkeypatch):
    told = []
    of = slots.digest_of
    monkeypatch.setattr(slots, "digest_of", lambda params: told.append(params) or of(params))

    class Averages(Counter):
        def __init__(self, model):
            self.means = [{n: p.detach().clone() for n, p in model.named_parameters()}]

        def state_dict(self):
            return {"means": self.means}

    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(9)))
    inventory = TORCH.inventory(TrainState(model, extra={"ema": Averages(model)}))

    assert len([name for name in inventory.tensors if name.startswith("extra.ema|")]) == 18
    assert len(told) == 1
