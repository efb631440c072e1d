"""What a script sets on a state outside of build is refused by name: a switch would drop it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

import dynatrain
from dynatrain import LayoutError, TrainState


@dataclass
class Job:
    """A build that does what the script tells it to."""

    also: Any = lambda state: None
    num_calls: int = 0
    handles: list[Any] = field(default_factory=list)

    def __call__(self):
        self.num_calls += 1
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))
        self.also(state)
        return state


def nothing(*args):
    """A hook."""


HOOKS = {
    "'0.weight' by register_hook()": lambda s: s.model[0].weight.register_hook(nothing),
    "'1.bias' by register_post_accumulate_grad_hook()": lambda s: s.model[
        1
    ].bias.register_post_accumulate_grad_hook(nothing),
    "'0' by register_forward_hook()": lambda s: s.model[0].register_forward_hook(nothing),
    "the model by register_forward_pre_hook()": lambda s: s.model.register_forward_pre_hook(
        nothing
    ),
    "'1' by register_full_backward_hook()": lambda s: s.model[1].register_full_backward_hook(
        nothing
    ),
    "'1' by register_load_state_dict_post_hook()": lambda s: s.model[
        1
    ].register_load_state_dict_post_hook(nothing),
    "the optimizer of '0.bias' by optimizer.register_step_post_hook()": lambda s: (
        s.optimizer.register_step_post_hook(nothing)
    ),
}


# Training went on without the hook, and the report said that nothing was lost.
@pytest.mark.parametrize("words", HOOKS)
def test_a_hook_that_the_script_registers_is_refused_by_its_owner_and_kind(start, words):
    session = start(Job())
    handle = HOOKS[words](session.state)
    with pytest.raises(LayoutError) as caught:
        session.switch("dp=1")
    handle.remove()

    assert f"hooks of {words}: 1 as the script has left them on a rank, 0 as build" in str(
        caught.value
    )
    assert "register it in build" in str(caught.value)
    assert session.switch("dp=1").epoch == 1


@pytest.mark.parametrize("words", HOOKS)
def test_hooks_of_build_and_of_build_alone_are_no_trouble(start, words):
    session = start(Job(HOOKS[words]))

    assert session.switch("dp=1").epoch == 1


# A mask once the head is warm, an unfrozen layer: build knows of it by the next switch.
def test_what_the_script_sets_and_build_sets_by_now_is_accepted(start):
    job = Job()
    session = start(job)

    def change(state):
        state.model[0].weight.register_hook(nothing)
        state.model[1].requires_grad_(False)

    job.also = change
    change(session.state)
    session.switch("dp=1")

    assert session.state.model[0].weight._backward_hooks
    assert not session.state.model[1].weight.requires_grad


# A build may hook one layout and not another: what it made itself is its own affair.
def test_a_hook_of_build_that_the_target_has_not_is_no_trouble(start):
    job = Job()
    job.also = lambda state: job.num_calls > 2 or state.model[0].register_forward_hook(nothing)
    session = start(job)

    assert len(session.state.model[0]._forward_hooks) == 1
    assert session.switch("dp=1").epoch == 1
    assert not session.state.model[0]._forward_hooks


def hook_of(package):
    def hook(*args):
        pass

    hook.__module__ = package
    return hook


# Libraries hook a model in its first forward pass, and hook the next one as well.
@pytest.mark.parametrize(
    "package",
    [
        "torch.distributed.fsdp._fully_shard._fsdp_state",
        "torch.nn.modules.lazy",
        "transformers.distributed.tensor_parallel",
    ],
)
def test_hooks_that_libraries_register_while_a_model_trains_are_no_trouble(start, package):
    session = start(Job())
    session.state.model[0].weight.register_hook(hook_of(package))

    assert session.switch("dp=1").epoch == 1


# One that removes itself when it has run would run again.
def test_a_hook_of_build_that_the_script_has_removed_is_refused(start):
    job = Job()
    job.also = lambda state: job.handles.append(state.model[0].register_forward_hook(nothing))
    session = start(job)
    job.handles[-1].remove()

    with pytest.raises(LayoutError, match=r"0 as the script has left them on a rank, 1 as build"):
        session.switch("dp=1")


class Watching:
    """A kept object that hooks the model of every world."""

    def __init__(self):
        self.num_ran = 0

    def on_world(self, world):
        model = dynatrain.current_session().state.model
        model.register_forward_hook(self.count)
        model[1].bias.requires_grad_(False)

    def count(self, *args):
        self.num_ran += 1


def test_what_kept_objects_set_in_every_world_is_no_trouble(start):
    watching = Watching()
    session = start(Job(), keep={"watching": watching})
    for _ in range(3):
        session.state.model(torch.ones(1, 3))
        session.switch("dp=1")
    session.prepare("dp=1")

    assert session.switch("dp=1").prepared
    assert watching.num_ran == 3


@pytest.mark.parametrize("value", [False, True])
def test_requires_grad_that_the_script_changes_is_refused_with_both_values(start, value):
    session = start(Job(lambda state: state.model[0].weight.requires_grad_(not value)))
    session.state.model[0].weight.requires_grad_(value)
    with pytest.raises(LayoutError) as caught:
        session.switch("dp=1")

    assert f"'0.weight' has requires_grad={value} on a rank, which the script" in str(caught.value)
    assert f"build makes it with requires_grad={not value}" in str(caught.value)
    assert "set it in build" in str(caught.value)
    assert session.state.model[0].weight.requires_grad is value


# It runs once: what it sets would be there in the first layout alone.
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.model[0].register_forward_hook(nothing), "register_forward_hook"),
        (lambda state: state.model[0].requires_grad_(False), "requires_grad=False"),
    ],
)
def test_what_initialize_sets_is_refused_by_init(start, change, words):
    with pytest.raises(LayoutError, match=words):
        start(Job(), initialize=lambda state, world: change(state))


def test_a_check_and_a_preparation_refuse_what_the_switch_would(start):
    session = start(Job())
    handle = session.state.model[0].register_forward_hook(nothing)
    for call in (session.check, session.prepare, session.check, session.switch):
        with pytest.raises(LayoutError, match="'0' by register_forward_hook"):
            call("dp=1")
    handle.remove()

    assert session.check("dp=1") == 0


def test_what_is_set_behind_a_preparation_is_refused_by_the_switch(start):
    session = start(Job())
    session.prepare("dp=1")
    handle = session.state.model[0].register_forward_hook(nothing)
    with pytest.raises(LayoutError, match="'0' by register_forward_hook"):
        session.switch("dp=1")
    handle.remove()

    assert session.switch("dp=1").epoch == 1


# No module of the target has the name: nobody would miss the hook.
def test_a_hook_of_a_module_with_another_name_in_the_target_is_refused(start):
    job = Job()

    def renamed(state):
        if job.num_calls > 2:
            state.model.add_module("top", state.model._modules.pop("1"))

    job.also = renamed
    session = start(job)
    names = {"1.weight": "top.weight", "1.bias": "top.bias"}
    handle = session.state.model[1].register_forward_hook(nothing)
    with pytest.raises(LayoutError, match="hooks and requires_grad of '1'"):
        session.switch("dp=1", names=names)
    handle.remove()

    assert session.switch("dp=1", names=names).epoch == 1
