"""What the script has set where it calls the library does not reach into what is built."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import training_jobs as jobs
from dynatrain import Layout, TrainState


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


SURROUNDINGS = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "dtype": lambda: default_dtype(torch.float64),
    "device": lambda: default_device("meta"),
    "device as a block": lambda: torch.device("meta"),
}


def read_surroundings():
    return (
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
    )


def steps_after(session):
    return [jobs.train_step(session.state, session.world, step) for step in (1, 2)]


# Inference tensors never train again, and another default dtype makes another model: the switch
# said that it was done, and the next step died or bent.
@pytest.mark.parametrize("name", SURROUNDINGS)
@pytest.mark.parametrize("call", ["prepare", "switch", "fingerprint", "check"])
def test_modes_and_defaults_of_the_caller_do_not_reach_the_state(start, name, call):
    session = start()
    jobs.train_step(session.state, session.world, 0)
    whole = jobs.whole_state(session.state)
    with SURROUNDINGS[name]():
        before = read_surroundings()
        getattr(session, call)(*([] if call == "fingerprint" else ["dp=1"]))
        assert read_surroundings() == before
    session.switch("dp=1")

    assert jobs.differences(whole, jobs.whole_state(session.state)) == []
    kinds = {(p.is_inference(), p.device.type) for p in session.state.model.parameters()}
    assert kinds == {(False, "cpu")}
    jobs.train_step(session.state, session.world, 1)
    assert all((p.dtype, p.grad) == (torch.float32, None) for p in session.state.model.parameters())


# A first state made of inference tensors would never train.
@pytest.mark.parametrize("name", sorted(SURROUNDINGS.keys() - {"dtype"}))
@pytest.mark.parametrize("initialize", [None, jobs.initialize])
def test_modes_around_init_do_not_reach_the_state(start, name, initialize):
    torch.manual_seed(3)
    expected = start(initialize=initialize)
    torch.manual_seed(3)
    with SURROUNDINGS[name]():
        before = read_surroundings()
        session = start(initialize=initialize)
        assert read_surroundings() == before

    losses = [jobs.train_step(made.state, made.world, 0) for made in (expected, session)]
    assert losses[0] == losses[1]


# The other half of the dtype: a script sets it around init alone, as transformers' loaders do.
def test_every_build_runs_under_the_default_dtype_of_init(start):
    seen = []

    def build(world):
        seen.append(torch.get_default_dtype())
        return jobs.build(world)

    with default_dtype(torch.bfloat16):
        session = start(build, initialize=None)
    session.switch("dp=1")

    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in session.state.model.parameters()} == {torch.bfloat16}


class Kept:
    def on_world(self, world):
        self.made = torch.zeros(2)


# A moving average that is cloned in on_world must be able to train, wherever switch was called.
def test_callbacks_of_kept_objects_run_under_the_defaults_of_init(start):
    kept = Kept()
    session = start(keep={"kept": kept})
    with torch.inference_mode(), default_dtype(torch.float64), torch.device("meta"):
        session.switch("dp=1")

    assert not kept.made.is_inference()
    assert (kept.made.dtype, kept.made.device.type) == (torch.float32, "cpu")


#: Another layout than dp=1, with an equal mesh.
EQUAL = Layout(order=("dp_replicate", "pp", "dp_shard", "cp", "tp"))


def build_sharded(world):
    """One layer, sharded, and an operation of DTensor on it, as a tied initialisation has it."""
    model = nn.Linear(4, 4, bias=False)
    fully_shard(model, mesh=world.mesh)
    with torch.no_grad():
        product = model.weight @ model.weight
    assert product.device_mesh is world.mesh
    return TrainState(model)


def fill(state, world):
    with torch.no_grad():
        state.model.weight._local_tensor.copy_(torch.eye(4))


def mesh_of_a_product(session):
    weight = session.state.model.weight
    assert isinstance(weight, DTensor)
    with torch.no_grad():
        return (weight @ weight).device_mesh


# Two layouts may have equal meshes, and DTensor's cache tells meshes apart by equality: build was
# refused with "got different mesh objects".
def test_layouts_with_equal_meshes_do_not_meet_in_the_cache_of_dtensor(start):
    session = start(build_sharded, initialize=fill)
    assert mesh_of_a_product(session) is session.world.mesh
    session.switch(EQUAL)
    assert mesh_of_a_product(session) is session.world.mesh


# After a preparation the present model computed on the prepared mesh.
@pytest.mark.parametrize("call", ["prepare", "check"])
def test_the_present_model_stays_on_its_mesh_when_another_is_built(start, call):
    session = start(build_sharded, initialize=fill)
    getattr(session, call)(EQUAL)

    assert mesh_of_a_product(session) is session.world.mesh


def test_a_second_session_does_not_meet_the_meshes_of_the_first(start):
    first = start(build_sharded, initialize=fill)
    mesh_of_a_product(first)
    second = start(build_sharded, initialize=fill)

    assert second.world.mesh is not first.world.mesh
    assert mesh_of_a_product(second) is second.world.mesh
