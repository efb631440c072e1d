"""Nothing that a step uses is left on the meta device: it gets memory by a rule, or is refused."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.optim.swa_utils import AveragedModel

from dynatrain import LayoutError, TrainState


def with_main_grad(*, lazily=False):
    model = nn.Linear(3, 2)
    if not lazily:
        for param in model.parameters():
            param.main_grad = torch.zeros_like(param, requires_grad=False)
            param.scale = torch.ones(())
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))


# `weight.sub_(main_grad)` with main_grad on meta does nothing: weights never move again.
@pytest.mark.parametrize("lazily", [False, True])
def test_a_tensor_on_a_parameter_moves_with_it_and_is_in_the_fingerprint(start, lazily):
    session = start(partial(with_main_grad, lazily=lazily))
    for number, param in enumerate(session.state.model.parameters()):
        param.main_grad = torch.full(param.shape, 0.5 + number)
        param.scale = torch.tensor(2.0 + number)
    before = session.fingerprint()
    session.switch("dp=1")

    assert session.fingerprint() == before
    for number, param in enumerate(session.state.model.parameters()):
        assert torch.equal(param.main_grad, torch.full(param.shape, 0.5 + number))
        assert torch.equal(param.scale, torch.tensor(2.0 + number))
    session.state.model.bias.main_grad[0] = 7.0
    assert session.fingerprint() != before


# A tensor that no map says would be gone without a word.
def test_a_tensor_of_another_shape_on_a_parameter_is_refused_and_the_advice_works(start):
    session = start(lambda: TrainState(nn.Linear(3, 2)))
    session.state.model.weight.rows = torch.ones(2)

    with pytest.raises(LayoutError, match=r"'weight' has a tensor \.rows(.|\n)*del param\.rows"):
        session.switch("dp=1")
    del session.state.model.weight.rows
    session.switch("dp=1")


@dataclass
class Loss:
    weight: torch.Tensor


class Slotted:
    __slots__ = ("kept", "unset")

    def __init__(self, kept):
        self.kept = kept


class Holder:
    """Its property would be code of the user's."""

    def __init__(self, kept):
        self.kept = [kept]

    @property
    def costly(self):
        raise AssertionError("a property ran")

    def __getattr__(self, name):
        raise AssertionError(f"__getattr__ ran for {name}")

    def use(self):
        return self.kept


def closure_over(tensor):
    return lambda: tensor


REACHED = {
    "a module of user": (lambda t: {"user": nn.CrossEntropyLoss(weight=t)}, r"user\.weight"),
    "a list in a dict": (lambda t: {"user": {"a": [1, (t,)]}}, r"user\['a'\]\[1\]\[0\]"),
    "a dataclass": (lambda t: {"user": Loss(t)}, r"user\.weight"),
    "slots": (lambda t: {"user": Slotted(t)}, r"user\.kept"),
    "a partial": (lambda t: {"user": partial(torch.add, t)}, r"user\.args\[0\]"),
    "a closure": (lambda t: {"user": closure_over(t)}, "user<tensor>"),
    "a bound method": (lambda t: {"user": Holder(t).use}, r"user\.__self__\.kept\[0\]"),
    "a namespace": (lambda t: {"user": SimpleNamespace(a=t)}, r"user\.a"),
}


@pytest.mark.parametrize("kind", REACHED)
def test_what_user_reaches_on_meta_is_refused_by_its_way(made_anew, kind):
    fields, way = REACHED[kind]
    with pytest.raises(LayoutError, match=f'\'{way}"?\'? has no memory|"{way}" has no memory'):
        made_anew(lambda: TrainState(nn.Linear(3, 2), **fields(torch.zeros(3))))


def test_attributes_of_optimizers_and_modules_on_meta_are_refused(made_anew):
    def build(where):
        model = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        owner = {"model": model, "optimizer": optimizer}[where]
        owner.norms = {"all": torch.zeros(3)}
        return TrainState(model, optimizer)

    for where in ("model", "optimizer"):
        with pytest.raises(LayoutError, match=rf"{where}\.norms\['all'\]"):
            made_anew(partial(build, where))


# A walk that follows everything would never end here, or wander into torch.
def test_the_walk_ends_on_cycles_and_leaves_libraries_alone(made_anew):
    def build():
        ring = {"torch": torch, "group": dist, "type": nn.Linear}
        ring["self"] = [ring, Holder(1)]
        return TrainState(nn.Linear(3, 2), user=ring)

    assert made_anew(build).user["type"] is nn.Linear


# Under torch.device("meta") torch.tensor makes one, too: numbers with a device are the advice.
def test_a_constant_made_with_a_device_is_no_leftover(made_anew):
    def build():
        weight = torch.tensor([1.0, 2.0], device="cpu")
        return TrainState(nn.Linear(3, 2), user=nn.CrossEntropyLoss(weight=weight))

    assert torch.equal(made_anew(build).user.weight, torch.tensor([1.0, 2.0]))


def averaged():
    model = nn.Linear(3, 2)
    return TrainState(
        model,
        extra={"ema": AveragedModel(model), "loss": nn.CrossEntropyLoss(weight=torch.ones(2))},
    )


# Loading into a meta tensor does nothing, in silence: the average would be gone.
def test_modules_among_the_extras_get_memory_and_their_values(start):
    session = start(averaged)
    with torch.no_grad():
        session.state.model.weight.fill_(3.0)
    session.state.extra["ema"].update_parameters(session.state.model)
    session.state.extra["loss"].weight.mul_(5)
    session.switch("dp=1")

    assert session.state.extra["ema"].module.weight.eq(3).all()
    assert session.state.extra["ema"].n_averaged == 1
    assert session.state.extra["loss"].weight.eq(5).all()


class Shadow:
    """An average of its own; ``takes`` is what its load_state_dict does with a tensor."""

    def __init__(self, takes):
        self.shadow, self.takes = {"w": torch.zeros(2)}, takes

    def state_dict(self):
        return {"w": self.shadow["w"]}

    def load_state_dict(self, state):
        self.takes(self.shadow, state["w"])


def replaces(shadow, value):
    shadow["w"] = value.clone()


def copies(shadow, value):
    shadow["w"].copy_(value)


def test_an_extra_whose_load_replaces_its_tensors_arrives(start):
    session = start(lambda: TrainState(nn.Linear(3, 2), extra={"ema": Shadow(replaces)}))
    session.state.extra["ema"].shadow["w"].fill_(4.0)
    session.switch("dp=1")

    assert session.state.extra["ema"].shadow["w"].eq(4).all()


def test_an_extra_that_loads_into_meta_is_refused_before_training(start):
    with pytest.raises(LayoutError, match=r"extra\.ema has no memory at 'w'"):
        start(lambda: TrainState(nn.Linear(3, 2), extra={"ema": Shadow(copies)}))


# A script that still holds a replaced model must be able to switch: only its use is refused.
def test_a_replaced_state_that_somebody_holds_is_no_leftover(start):
    held = []

    def build():
        model = nn.BatchNorm1d(3)
        held.append(model)
        return TrainState(model, user=held)

    session = start(build)
    session.switch("dp=1")
    session.switch("dp=1")
    assert len(held) == 4  # init's trial too


# cpu.mul_(meta) is silent: rows that were frozen by a mask would move after a switch.
def test_a_mask_that_a_hook_holds_is_refused_where_build_made_it_on_meta(start):
    def build():
        model = nn.Linear(3, 2)
        mask = torch.zeros_like(model.weight)
        model.weight.register_hook(lambda grad: grad.mul_(mask))
        return TrainState(model)

    with pytest.raises(LayoutError, match=r"model\.weight\.hooks(.|\n)*no memory"):
        start(build)


# Its own zeros stood for the source's history, and nothing was said.
def test_an_attribute_of_another_shape_is_refused_once_it_differs(start):
    def build():
        model = nn.Linear(3, 2)
        model.weight.amax = torch.zeros(16, device="cpu")
        return TrainState(model)

    session = start(build)
    session.switch("dp=1")
    session.state.model.weight.amax.fill_(2.0)
    with pytest.raises(LayoutError, match=r"weight(.|\n)*\.amax"):
        session.switch("dp=1")
    assert session.state.model.weight.amax.eq(2).all()


# The session would have trained a model without memory, and torch says nothing.
def test_a_model_that_build_keeps_from_the_trial_is_refused(start):
    kept = []

    def build():
        if not kept:
            kept.append(nn.Linear(3, 2))
        return TrainState(kept[0])

    with pytest.raises(LayoutError, match=r"have no memory(.|\n)*every call"):
        start(build)


# Trainers that list their models are common; those of shards have a tensor inside a tensor.
def test_models_of_shards_that_somebody_holds_are_no_leftover(start_alone):
    held = []

    def build(world):
        model = fully_shard(nn.Linear(3, 2), mesh=world.mesh)
        held.append(model)
        return TrainState(model, user=held)

    session = start_alone(build)
    for _ in range(2):
        session.switch("dp=1")

    assert len(held) == 4


class Rewound:
    """A loader that goes back to where its state says."""

    def __init__(self):
        self.loads = 0

    def state_dict(self):
        return {"at": 3}

    def load_state_dict(self, state):
        self.loads += 1


# init's trial, session.check() and a refused switch would have rewound it within an epoch.
@pytest.mark.parametrize("per_rank", [[], ["data"]])
def test_nothing_is_loaded_into_an_object_of_both_states(start, per_rank):
    data = Rewound()
    session = start(lambda: TrainState(nn.Linear(3, 2), extra={"data": data}, per_rank=per_rank))
    session.check("dp=1")
    session.switch("dp=1")

    assert data.loads == 0


def test_a_module_that_belongs_to_its_rank_travels(start):
    session = start(
        lambda: TrainState(nn.Linear(3, 2), extra={"own": nn.Linear(2, 2)}, per_rank=["own"])
    )
    with torch.no_grad():
        session.state.extra["own"].weight.fill_(5.0)
    session.switch("dp=1")

    assert session.state.extra["own"].weight.eq(5).all()


class Registry:
    """Names its attributes as torch's modules do, and keeps other things there."""

    def __init__(self, *modules):
        self._buffers = {"seen"}
        self._modules = list(modules)


# Every build was refused with "'set' object has no attribute 'items'".
def test_an_object_may_name_its_attributes_as_a_module_does(start):
    session = start(lambda: TrainState(nn.Linear(3, 2), user=Registry()))

    assert session.state.user._buffers == {"seen"}


def test_what_such_an_object_holds_is_looked_at(start):
    with pytest.raises(LayoutError, match=r"'user\._modules\[0\]\.weight' has no memory"):
        start(lambda: TrainState(nn.Linear(3, 2), user=Registry(nn.Linear(3, 2))))
