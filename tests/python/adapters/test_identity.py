"""What an optimizer holds once in several places is one object after a switch, too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState
from dynatrain.adapters.torch.identity import Copies, check_not_split
from held_values import train


def rate(value=0.1):
    return torch.tensor(value, device="cpu")


def of_groups(*rates):
    """Two groups with these learning rates; ``user`` is what else holds the first of them."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    groups = [
        {"params": layer.parameters(), "lr": lr} for layer, lr in zip(model, rates, strict=True)
    ]
    return TrainState(model, torch.optim.AdamW(groups, foreach=False), user=rates[0])


def shared():
    lr = rate()
    return of_groups(lr, lr)


def rates_of(state):
    return [group["lr"] for optimizer in state.optimizers for group in optimizer.param_groups]


# Halved through the first group, the second one went on as before.
def test_a_rate_of_two_groups_is_one_tensor_and_the_one_that_build_made(start):
    session = start(shared)
    rates_of(session.state)[0].mul_(0.5)
    session.switch("dp=1")

    first, second = rates_of(session.state)
    assert first is second is session.state.user
    assert first.item() == rate(0.05).item()


def test_rates_that_the_script_has_made_two_stay_two(start):
    session = start(shared)
    session.state.optimizer.param_groups[0]["lr"] = rate(0.5)
    session.switch("dp=1")

    first, second = rates_of(session.state)
    assert (first.item(), second.item()) == (0.5, rate().item())
    first.mul_(0)
    assert second.item() == rate().item()


def test_rates_that_the_script_has_made_one_stay_one(start):
    session = start(lambda: of_groups(rate(0.1), rate(0.2)))
    groups = session.state.optimizer.param_groups
    groups[1]["lr"] = groups[0]["lr"]
    session.switch("dp=1")

    assert rates_of(session.state)[0] is rates_of(session.state)[1]


def test_a_rate_of_two_optimizers_is_one_tensor(start):
    def build():
        model, lr = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), rate()
        return TrainState(
            model, [torch.optim.AdamW(layer.parameters(), lr=lr, foreach=False) for layer in model]
        )

    session = start(build)
    session.switch("dp=1")

    assert rates_of(session.state)[0] is rates_of(session.state)[1]


# A script that sets its rate by a tensor of its own sets it in every layout.
def test_a_rate_of_the_script_that_every_build_takes_is_the_scripts_own(start):
    own = rate()
    session = start(lambda: of_groups(own, own))
    own.mul_(0.5)
    session.switch("dp=1")

    assert rates_of(session.state)[0] is own
    assert own.item() == rate(0.05).item()


# The present state's own tensor is no place for what another one says: the switch may be refused.
def test_a_rate_of_the_present_state_is_never_written_to(start):
    own, other = rate(), rate(0.7)
    made = []

    def build():
        made.append(of_groups(own, other) if len(made) != 2 else of_groups(other, rate(0.3)))
        return made[-1]

    session = start(build)
    session.check("dp=1")  # other is the first group's in this build, the second's in the source
    assert (own.item(), other.item()) == (rate().item(), rate(0.7).item())


class Together(torch.optim.Optimizer):
    """Counts all its parameters' steps in one dict with a list in it."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        params = self.param_groups[0]["params"]
        for param in params:
            count = self.state[param].setdefault("count", self.state[params[0]].get("count", {}))
            count.setdefault("steps", []).append(1)


def test_a_dict_that_slots_of_several_parameters_share_is_one_dict(start):
    def build():
        model = nn.Linear(3, 2)
        return TrainState(model, Together(model.parameters()))

    session = start(build)
    train(session.state, 1)
    session.switch("dp=1")
    train(session.state, 1)

    counts = [slots["count"] for slots in session.state.optimizer.state.values()]
    assert counts[0] is counts[1]
    assert counts[0] == {"steps": [1] * 4}


# Stages of a pipeline hand over the same rate, each as an object of its own.
def test_objects_of_two_ranks_at_one_place_are_one_where_they_mean_the_same():
    values = [rate(), rate(), rate(0.2)]
    copies = Copies(TrainState(nn.Linear(1, 1)), {id(value): "place" for value in values})
    first, second, other = (copies.of(value, None) for value in values)

    assert first is second
    assert first is not values[0]
    assert other.item() == rate(0.2).item()


# The copies on two ranks would count apart, where one counted for all.
def test_an_object_of_parameters_that_part_is_refused_by_its_class_and_their_names():
    count = {"steps": 1}
    values = {"a": {"count": count, "of all": (1, "x")}, "b": {"more": [count]}, "c": {"own": {}}}
    fqns = {key: f"{key}.weight" for key in values}

    for here in ({"a.weight", "b.weight"}, {"c.weight"}, set()):
        check_not_split("an optimizer", values, fqns, here)
    with pytest.raises(LayoutError, match=r"one dict for 'a\.weight' and 'b\.weight'"):
        check_not_split("an optimizer", values, fqns, {"a.weight", "c.weight"})
