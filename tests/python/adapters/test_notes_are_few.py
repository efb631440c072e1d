"""What every rank says to every other: a word for what is alike, names for exceptions alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState, _native
from dynatrain.adapters.port import Slots
from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.adapters.torch.memory import make_slots
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


def offloaded(num_on_host):
    """A state of a session on a GPU (meta in its place) with slots and attributes on the host."""
    model = nn.Sequential(nn.Linear(2, 3, device="meta"), nn.Linear(3, 2, device="meta"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number, param in enumerate(model.parameters()):
        at = CPU if number < num_on_host else torch.device("meta")
        optimizer.state[param]["master"] = torch.zeros(param.shape, device=at)
        optimizer.state[param]["step"] = torch.zeros((), device=CPU)
        param.main_grad = torch.zeros(param.shape, device=at)
    return TrainState(model, optimizer)


def made_from(num_on_host):
    """Where a target on meta gets memory for each slot."""
    source = LiveTensors(offloaded(num_on_host), device=GPU)
    table = LiveTensors(source.state).table()
    shard_map = _native.ShardMap.merge([(table.encode(), [0])])
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    target = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))
    make_slots(target, Slots(shard_map, source.slot_notes()))
    device_of = {}
    for name, tensor in LiveTensors(target).tensors.items():
        device_of[name] = "cpu" if getattr(tensor, "dynatrain_on_host", False) else "gpu"
    return device_of


# An optimizer that keeps its master weights on the host came back with them on the device, which
# has no room for them.
@pytest.mark.parametrize("num_on_host", [0, 3, 4])
def test_slots_and_attributes_get_memory_where_they_lie_in_the_source(num_on_host):
    device_of = made_from(num_on_host)

    fqns = ["0.weight", "0.bias", "1.weight", "1.bias"]
    for number, fqn in enumerate(fqns):
        place = "cpu" if number < num_on_host else "gpu"
        assert device_of[f"{fqn}|master"] == place
        assert device_of[f"{fqn}|.main_grad"] == place
        assert device_of[f"{fqn}|step"] == "cpu"
        assert device_of[f"{fqn}|param"] == "gpu"
