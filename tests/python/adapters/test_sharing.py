"""Tensors over one memory stay over one memory, on ranks that receive as on ranks that adopt."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState
from dynatrain.adapters.torch import memory


class Flat(nn.Module):
    """Two parameters over one flat memory, a part of both as a buffer, and one that is expanded."""

    def __init__(self):
        super().__init__()
        flat = torch.zeros(10)
        self.a = nn.Parameter(flat[:6].view(2, 3))
        self.b = nn.Parameter(flat[6:])
        self.register_buffer("middle", flat[4:8])
        self.register_buffer("expanded", torch.zeros(1, 4).expand(3, 4))
        pair = torch.zeros(2, dtype=torch.complex64)
        self.register_buffer("pair", pair)
        self.register_buffer("imaginary", pair.imag)


class Tied(nn.Module):
    """Two parameter objects over one memory, as older models tie their embeddings."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
        self.head.weight.data = self.embed.weight.data


def check_flat(model):
    with torch.no_grad():
        model.a[1, 2], model.b[0], model.pair[1] = 5.0, 7.0, 3j
    assert model.middle.tolist()[1:3] == [5.0, 7.0]
    assert model.imaginary.tolist()[1] == 3.0


# A step that writes through one view trained on some ranks and not on others.
def test_views_of_one_memory_are_views_of_one_memory_where_they_are_received(made_anew):
    check_flat(made_anew(lambda: TrainState(Flat())).model)


def test_objects_tied_by_their_data_are_tied_where_they_are_received(made_anew):
    model = made_anew(lambda: TrainState(Tied())).model
    with torch.no_grad():
        model.embed.weight.fill_(2.0)
    assert model.head.weight.eq(2).all()


def test_views_of_one_memory_keep_their_values_and_their_sharing_where_they_stay(start):
    session = start(lambda: TrainState(Flat()))
    for at in range(2):
        model = session.state.model
        with torch.no_grad():
            model.a.copy_(torch.arange(6.0).view(2, 3) + at)
            model.b.copy_(torch.arange(4.0) - at)
            model.pair.copy_(torch.tensor([1 + 2j, 3 + 4j]) + at)
            model.expanded[0].copy_(torch.arange(4.0) + at)
        wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        session.switch("dp=1")
        for name, tensor in session.state.model.state_dict().items():
            assert torch.equal(tensor, wanted[name]), name
        check_flat(session.state.model)


# Of two contents, one memory can hold one: which one arrives would be chance.
def test_memory_that_only_the_target_shares_is_refused(start):
    kinds = iter([nn.ModuleDict, nn.ModuleDict, None])

    def build():
        model = Tied()
        if next(kinds):
            model.head.weight = nn.Parameter(model.head.weight.detach().clone())
        return TrainState(model)

    session = start(build)
    with pytest.raises(LayoutError, match=r"embed\.weight\|param(.|\n)*one memory after build"):
        session.switch("dp=1")


# Whoever moves a parameter to memory of its own takes it away from what lies over it.
def test_a_parameter_that_is_copied_away_while_memory_is_taken_is_refused(start, monkeypatch):
    def build():
        model = nn.Linear(3, 2)
        model.weight.main = model.weight.detach()
        return TrainState(model)

    def copy_away(module, emptied):
        module.weight.data = module.weight.detach().clone()

    session = start(build)
    monkeypatch.setattr(memory, "refresh_fsdp_memory", copy_away)

    session.check("dp=1")
    with pytest.raises(LayoutError, match="copied one of them out of it"):
        session.prepare("tp=1")
