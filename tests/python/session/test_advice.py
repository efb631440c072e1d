"""The mistakes of a first hour: each error says what to write instead."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import dynatrain
from dynatrain import LayoutError, TrainState


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


def of(model):
    return TrainState(model, sgd(model))


def refusal(build, **options):
    """The text that `init` refuses `build` with."""
    with pytest.raises(LayoutError) as refused:
        dynatrain.init(build, "dp=1", **{"timeout_s": 20, **options})
    return str(refused.value)


def no_driver(*args, **kwargs):
    raise RuntimeError("Found no NVIDIA driver on your system. Please check that you have a GPU")


def not_compiled(*args, **kwargs):
    raise AssertionError("Torch not compiled with CUDA enabled")


# torch's own advice, to_empty(), would take memory that the switch fills anew.
def test_model_moved_in_build_is_told_to_leave_that_out(start_alone):
    told = refusal(lambda world: of(net().to("cpu")))

    assert "leave .to(device) and .cuda() out of build" in told
    assert not any(line.endswith(";") for line in told.splitlines())


# A parameter that is moved and a number that is read look alike to torch: both ways out are told.
def test_parameter_moved_in_build_is_told_of_both_ways_out(start_alone):
    def build(world):
        model = net()
        model[0].weight.cpu()
        return of(model)

    told = refusal(build)
    assert "leave .to(device), .cuda() and .cpu() out of build" in told
    assert "make it with device='cpu'" in told


# Nothing said that it was build that must not ask for a GPU, whether there is one or not.
@pytest.mark.parametrize("says", [no_driver, not_compiled])
def test_build_that_moves_to_a_missing_gpu_is_told_that_it_moves_nothing(
    start_alone, monkeypatch, says
):
    monkeypatch.setattr(nn.Module, "cuda", says)

    assert "leave .cuda() and .to('cuda') out" in refusal(lambda world: of(net().cuda()))


# torch named the module, and nobody the cause: the first build runs twice.
@pytest.mark.parametrize("initialize", [None, lambda state, world: None], ids=["drawn", "filled"])
def test_model_made_outside_of_build_is_told_to_move_inside(start_alone, initialize):
    outside = net()

    def build(world):
        fully_shard(outside, mesh=world.mesh)
        return of(outside)

    assert "make the model inside build, in every call" in refusal(build, initialize=initialize)


# Tensor parallel sends the weights of such a model: a collective was all that the error knew.
def test_model_made_outside_of_build_and_cut_there_is_told_to_move_inside(start_alone):
    outside = net()

    def build(world):
        return of(parallelize_module(outside, world.mesh, {"0": ColwiseParallel()}))

    assert "make the model inside build" in refusal(build)


class Average:
    """An extra as it should be."""

    def __init__(self, module):
        self.mean = {name: param.detach().clone() for name, param in module.named_parameters()}

    def state_dict(self):
        return self.mean

    def load_state_dict(self, state):
        self.mean = state


# `user=`, where the advice led, is never moved: an average would have begun anew at every switch.
@pytest.mark.parametrize("make", [dict, lambda: torch.zeros(2)], ids=["dict", "tensor"])
def test_extra_without_state_dict_is_told_to_be_wrapped(start_alone, make):
    def build(world):
        model = net()
        return TrainState(model, sgd(model), extra={"mine": make()})

    told = refusal(build)
    assert "wrapped in an object with both" in told
    assert "no switch moves, goes into user=" in told


CLASSES = {
    "optimizer": (torch.optim.AdamW, "call it in build: AdamW(...)"),
    "scheduler": (torch.optim.lr_scheduler.StepLR, "call it in build: StepLR(...)"),
    "extra": ({"ema": Average}, "call it in build: Average(...)"),
    "model": (nn.Linear, "call it in build: Linear(...)"),
    "optimizers": ([torch.optim.AdamW], "call it in build: AdamW(...)"),
}


# A class has all the methods that are asked for: what was missing showed as a strange TypeError.
@pytest.mark.parametrize("field", CLASSES)
def test_class_in_place_of_an_object_is_told_to_be_called(start_alone, field):
    value, advice = CLASSES[field]

    def build(world):
        model = net()
        fields = {"model": model, "optimizer": sgd(model), field.rstrip("s"): value}
        return TrainState(**fields)

    assert advice in refusal(build)


WRONG_VALUES = {
    "a word": ({"verify": ("sums", "sum")}, "('sums',), got 'sum' in it"),
    "a deadline": ({"timeout_s": -1}, "seconds from 0.001 to 31536000, got -1 of type int"),
    "a deadline in words": ({"timeout_s": "60"}, "got '60' of type str"),
    "a transport": ({"transport": "ncll"}, "or Nccl(...), got 'ncll' of type str"),
    "a count": ({"num_threads": 0}, "from 1 to 4096, got 0 of type int"),
}


# What was wrong stood beside "got a value of type tuple", and of the type nothing was wrong.
@pytest.mark.parametrize("words", WRONG_VALUES)
def test_wrong_value_is_told_as_the_value_that_it_is(start_alone, words):
    options, says = WRONG_VALUES[words]

    assert says in refusal(lambda world: of(net()), **options)


# torch names the dimensions that there are, and no way from the layout's `dp` to them.
def test_mesh_asked_for_a_dimension_that_it_lacks_is_told_the_names_there_are(start_alone):
    told = refusal(lambda world: world.mesh["dp"])

    assert "KeyError" in told
    assert "dp_shard, cp and tp, each only where world.enabled(name)" in told
    assert "dp is Layout's shorthand for dp_shard" in told
    assert "world.submesh('dp')" in told
