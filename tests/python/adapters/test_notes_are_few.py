"""What every rank says to every other: a word for what is alike, names for exceptions alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState
from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.adapters.torch.slots import ELSEWHERE, ON_HOST, host_notes, on_host_in

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


class Average:
    def __init__(self, model):
        self.mean = {name: p.detach().clone() for name, p in model.named_parameters()}

    def state_dict(self):
        return self.mean

    def load_state_dict(self, state_dict):
        self.mean = state_dict


def notes_of(num_layers, device):
    """What a rank of a session on ``device`` says of a state on the host."""
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(num_layers)))
    for param in model.parameters():
        param.main_grad = torch.zeros_like(param)
    state = TrainState(model, torch.optim.Adam(model.parameters()), extra={"ema": Average(model)})
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    state.optimizer.step()
    return LiveTensors(state, device=device).slot_notes()


# A thousand ranks that each say ten thousand names to all is a gigabyte for nothing.
@pytest.mark.parametrize("device", [CPU, GPU])
def test_the_notes_of_a_rank_do_not_grow_with_its_layers(device):
    assert len(notes_of(9, device)) == len(notes_of(2, device))


def test_an_average_on_the_host_of_a_session_on_a_gpu_is_noted_once():
    assert (ON_HOST, "extra.ema|") in notes_of(4, GPU)
    assert (ON_HOST, "extra.ema|") not in notes_of(4, CPU)


def tensors(**devices):
    """Tensors by name, on the host or on meta in the place of a device."""
    return {f"extra.ema|{name}": torch.zeros(2, device=at) for name, at in devices.items()}


def test_what_is_on_the_host_is_known_again_by_one_word_or_by_its_names():
    whole = host_notes("extra.ema", tensors(a="cpu", b="cpu"))
    some = host_notes("extra.ema", tensors(a="cpu", b="meta"))
    names = ["extra.ema|a", "extra.ema|b", "a|param"]

    assert list(on_host_in(whole, ["extra.ema"], names)) == ["extra.ema|a", "extra.ema|b"]
    assert list(on_host_in(some, ["extra.ema"], names)) == ["extra.ema|a"]
    assert host_notes("extra.ema", {}) == set()


# Which of the two a tensor of a third rank's would be, one word does not say.
def test_ranks_that_keep_an_extra_at_different_places_are_refused_by_its_name():
    notes = {(ON_HOST, "extra.ema|"), (ELSEWHERE, "extra.ema|")}

    with pytest.raises(LayoutError, match=r"extra\.ema has its tensors on the host of one rank"):
        list(on_host_in(notes, ["extra.ema"], []))
