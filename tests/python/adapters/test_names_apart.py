"""A state that was read once, under further names of what it ties: as if it were read anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState, _native
from dynatrain.adapters.torch.inventory import LiveTensors


class Average:
    """An extra that holds a tensor of each parameter, by every name that it has."""

    def __init__(self, model):
        self.by_name = {name: param.detach().clone() for name, param in model.named_parameters()}

    def state_dict(self):
        return dict(self.by_name)

    def load_state_dict(self, state_dict):
        self.by_name = dict(state_dict)


def tied_state():
    model = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("first", "second", "third")})
    model["second"].weight = model["first"].weight
    model["third"].bias = model["first"].bias
    optimizer = torch.optim.Adam(model.parameters())
    sum(model[name](torch.ones(4)).sum() for name in model).backward()
    optimizer.step()
    param = model["first"].weight
    optimizer.state[param]["note"] = "kept beside the slots"
    return TrainState(model, optimizer, extra={"average": Average(model)})


#: Nothing apart, one of the two, both; and a name that nothing has.
APART = [(), ("second.weight",), ("second.weight", "third.bias"), ("first.nothing",)]


def facts(live):
    return (
        {name: id(tensor) for name, tensor in live.tensors.items()},
        live.tied,
        live.values,
        {fqn: live.fqns(param) for fqn, param in live.params().items()},
    )


def memory_by_name(table):
    """Addresses of what the state holds; an object hands over tensors of its own each time."""
    return {n: at for n, at in table.data_ptrs().items() if not n.startswith("extra.")}


# The fingerprint counts every name: one that a second reading had found and this way misses, or an
# order of names that differs, would be another state.
@pytest.mark.parametrize("before", APART)
@pytest.mark.parametrize("apart", APART)
def test_further_names_are_those_of_a_reading_of_their_own(before, apart):
    state = tied_state()
    wider, names = LiveTensors(state, apart=before).under(frozenset(apart))
    anew = LiveTensors(state, apart={*before, *apart})

    assert facts(wider)[1:] == facts(anew)[1:]
    assert wider.tensors.keys() == anew.tensors.keys()
    own = {n: t for n, t in wider.tensors.items() if not n.startswith("extra.")}
    assert {n: id(t) for n, t in own.items()} == {n: id(anew.tensors[n]) for n in own}
    added = LiveTensors(state, apart=before).table().with_names(names)
    assert memory_by_name(added) == memory_by_name(anew.table())


def test_the_state_stays_what_it_was_where_nothing_is_tied_by_the_names():
    live = LiveTensors(tied_state(), apart=("second.weight",))

    assert live.under(frozenset(["second.weight"])) == (live, [])


# A name that stands for nothing would be published as a tensor that nobody holds.
def test_names_that_cannot_be_added_are_refused():
    table = _native.StateTable()
    table.add_whole("one|param", [2], "float32", 4, 64, [1])

    with pytest.raises(LayoutError, match=r"'two\|param' is to stand for 'none\|param'"):
        table.with_names([("two|param", "none|param")])
    with pytest.raises(LayoutError, match=r"named 'one\|param'"):
        table.with_names([("one|param", "one|param")])
