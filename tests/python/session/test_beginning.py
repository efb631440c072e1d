"""A session begins with a trial of its first layout, and can try any other."""

from __future__ import annotations

import gc
import random
from datetime import timedelta

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed import HashStore
from torch.distributed.fsdp import fully_shard

import dynatrain
import training_jobs as jobs
from dynatrain import BudgetError, InternalError, LayoutError, TrainState, TransportError
from dynatrain.generation.control import Control
from dynatrain.generation.joined import _damaged
from dynatrain.generation.rendezvous import Rendezvous


def living(kind):
    return sum(isinstance(item, kind) for item in gc.get_objects())


class Marked(jobs.Mlp):
    """Told apart from models of other tests."""


def build_marked(world):
    model = Marked()
    jobs.parallelize(model, world)
    return TrainState(model, torch.optim.AdamW(model.parameters(), foreach=False))


# Days later a switch would find out; a trial that left a second model would cost memory for days.
@pytest.mark.parametrize("initialize", [None, jobs.initialize])
def test_the_trial_of_init_leaves_one_model(start, initialize):
    start(build_marked, initialize=initialize)

    assert living(Marked) == 1


def test_a_check_leaves_one_model_and_what_was_prepared(start):
    session = start(build_marked)
    session.prepare("dp=1")
    session.check("dp=1")

    assert living(Marked) == 2
    assert session.switch("dp=1").prepared


# Trainers keep self.model; a trial after the first build would leave them one without memory.
@pytest.mark.parametrize("initialize", [None, jobs.initialize])
def test_what_build_leaves_in_the_script_is_what_trains(start, initialize):
    left = []

    def build(world):
        state = jobs.build(world)
        left[:] = [state.model, world]
        return state

    session = start(build, initialize=initialize)

    assert left[0] is session.state.model
    assert left[1] is session.world


def sharded_once():
    model = jobs.Mlp()

    def build(world):
        fully_shard(model, mesh=world.mesh)
        return TrainState(model)

    return build


def drawing(world):
    model = nn.Linear(3, 3)
    model.register_buffer("noise", torch.randn(3, device="cpu"))
    return TrainState(model)


def loose(world):
    model = nn.Linear(3, 3)
    model.mask = torch.ones(3)
    return TrainState(model)


def memoized():
    states = []

    def build(world):
        states.append(jobs.build(world)) if not states else None
        return states[0]

    return build


BUILDS = {
    "shards a model made outside": (sharded_once(), "build raised"),
    "draws": (drawing, "random numbers"),
    "leaves a tensor on meta": (loose, "model.mask"),
    "returns one state twice": (memoized(), "the same TrainState"),
    "returns nothing": (lambda world: None, "NoneType"),
}


@pytest.mark.parametrize("name", BUILDS)
def test_build_that_could_not_be_switched_is_refused_by_init(start, name):
    build, words = BUILDS[name]
    with pytest.raises(LayoutError, match=words):
        start(build, initialize=None)

    assert start().switch("dp=1").epoch == 1  # nothing stands in the way of a better one


def seed_python(world):
    random.seed(0)
    return jobs.build(world)


def seed_numpy(world):
    np.random.seed(0)
    return jobs.build(world)


def seed_torch(world):
    torch.manual_seed(0)
    return jobs.build(world)


# The script's seed again leaves the streams as they were: it passed, and the first switch, days
# later, was refused.
@pytest.mark.parametrize("build", [seed_python, seed_numpy, seed_torch])
def test_build_that_seeds_as_the_script_does_is_refused_by_init(start, build):
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    with pytest.raises(LayoutError, match=r"seeded or drew random numbers(.|\n)*out of build"):
        start(build)


def test_random_streams_are_where_the_script_left_them(start):
    torch.manual_seed(7)
    start()
    drawn = torch.rand(3)
    torch.manual_seed(7)

    assert torch.equal(drawn, torch.rand(3))


# The advice of a refusal: a trial says how many bytes would do.
def test_a_check_is_refused_by_the_budget_and_says_what_would_do(start):
    session = start(memory_budget_bytes=0)
    assert session.check("dp=1") == 0  # all is adopted
    session._part.adapter.inventory = short(session._part.adapter.inventory)
    with pytest.raises(BudgetError, match="raise memory_budget_bytes") as refused:
        session.check("dp=1")

    assert refused.value.required_bytes == 5


def short(inventory):
    def read(*args, **kwargs):
        live = inventory(*args, **kwargs)
        if live.missing_bytes(()):  # a target
            live.missing_bytes = lambda adopted: 5
        return live

    return read


ERRORS = {
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes": RuntimeError,
    "CUDA out of memory. Tried to allocate 2 GiB": torch.OutOfMemoryError,
    "": MemoryError,
}


@pytest.mark.parametrize("text", ERRORS)
def test_memory_that_cannot_be_taken_is_a_budget_error_with_bytes(start, monkeypatch, text):
    session = start()

    def fail(*args, **how):
        raise ERRORS[text](text)

    monkeypatch.setattr(session._part.adapter, "materialize", fail)
    with pytest.raises(BudgetError, match="beside the source") as refused:
        session.switch("dp=1")

    assert isinstance(refused.value.__cause__, ERRORS[text])
    monkeypatch.undo()
    assert session.switch("dp=1").epoch == 1


# What no phase has foreseen must not leave the family either: it would end this rank alone.
@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (torch.distributed.DistNetworkError("gone"), TransportError),
        (torch.distributed.DistStoreError("gone"), TransportError),
        (KeyError("nobody foresaw it"), InternalError),
        (AttributeError("nobody foresaw it"), InternalError),
    ],
)
@pytest.mark.parametrize("call", ["switch", "prepare", "check", "fingerprint", "verify_replicas"])
def test_nothing_but_the_family_leaves_a_call(start, monkeypatch, raised, kind, call):
    session = start()

    def fail(*args, **kwargs):
        raise raised

    monkeypatch.setattr(session._part.calls, "meet", fail)
    with pytest.raises(kind) as caught:
        getattr(session, call)(*(["dp=1"] if call in ("switch", "prepare", "check") else []))

    assert caught.value.__cause__ is raised
    assert len(str(caught.value).splitlines()) >= 4


@pytest.mark.parametrize("error", [RuntimeError("x"), TypeError("x"), AttributeError("x")])
def test_what_torch_raises_in_a_phase_is_named_by_it_and_chained(start, monkeypatch, error):
    session = start()

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(session._part.adapter, "make_slots", fail)
    with pytest.raises(LayoutError, match=f"build raised {type(error).__name__}") as caught:
        session.switch("dp=1")

    assert caught.value.__cause__ is error


class Raising:
    def on_world(self, world):
        raise ValueError("mine")


# The session has started then on all ranks, and the error is the script's own: a script may go on
# with the session, or end it.
def test_what_a_kept_object_raises_in_init_is_not_swallowed(start):
    with pytest.raises(ValueError, match="mine"):
        start(keep={"odd": Raising()})
    begun = dynatrain.current_session()

    assert (str(begun.layout), begun.keep.keys()) == ("dp=1", {"odd"})
    with pytest.raises(ValueError, match="mine"):
        begun.switch("dp=1")
    assert begun.world.epoch == 1
    begun.close()
    assert start().world.epoch == 0


# A run is used up when a target refuses its values after the bytes have moved.
def test_a_switch_goes_again_after_its_target_refused_what_it_was_given(start, monkeypatch):
    session = start()
    take = session._part.adapter.take_values

    def fail(*args):
        raise KeyError("not this one")

    session.prepare("dp=1")
    monkeypatch.setattr(session._part.adapter, "take_values", fail)
    with pytest.raises(LayoutError, match="handing over"):
        session.switch("dp=1")
    monkeypatch.setattr(session._part.adapter, "take_values", take)

    assert session.switch("dp=1").epoch == 1


def with_a_foreign_optimizer(world):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return TrainState(fully_shard(model, mesh=world.mesh), optimizer)


def with_a_number_on_meta(world):
    model = nn.Linear(3, 2)
    return TrainState(model, torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.1)))


def with_a_tensor_left(world):
    model = nn.Linear(3, 2)
    model.mask = torch.ones(2)
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))


# There is no source state when a session begins, and "intact" is no news of it.
@pytest.mark.parametrize(
    ("build", "advice"),
    [
        (with_a_foreign_optimizer, r"make the optimizer after fully_shard\(\)"),
        (with_a_number_on_meta, "device='cpu'"),
        (with_a_tensor_left, "register_buffer"),
    ],
)
def test_a_refusal_of_init_says_that_nothing_was_started(start, build, advice):
    with pytest.raises(LayoutError, match=advice) as refused:
        start(build, initialize=None)

    assert "\n  nothing was started\n" in str(refused.value)
    assert "intact" not in str(refused.value)


def without_a_store(control):
    try:
        with Rendezvous(HashStore(), 0, 2, timedelta(seconds=1))._store_answers():
            raise RuntimeError("Connection reset by peer")
    except TransportError as error:
        return error


# Nor was there a switch that could be given up, when the first exchange of a job fails.
@pytest.mark.parametrize(
    "trouble",
    [
        lambda control: control._lost(RuntimeError("Timed out"), "the first layout"),
        lambda control: _damaged("3 bytes for 4", 2),
        without_a_store,
    ],
    ids=["lost", "damaged", "no store"],
)
def test_an_exchange_that_fails_in_init_says_that_nothing_was_started(start, monkeypatch, trouble):
    def fail(self, *args, **kwargs):
        raise trouble(self)

    monkeypatch.setattr(Control, "agree", fail)
    with pytest.raises(TransportError) as refused:
        start()

    assert "\n  nothing was started\n" in str(refused.value)
    assert not any(word in str(refused.value) for word in ("intact", "switch"))


# Random streams are put back, and that is news; a source state is none.
def test_a_build_that_draws_in_init_leaves_streams_and_nothing_else(start):
    def build(world):
        torch.rand(1, device="cpu")
        return jobs.build(world)

    with pytest.raises(LayoutError) as refused:
        start(build)

    assert "\n  nothing was started; the streams were put back\n" in str(refused.value)


# The last line of the refusal.
def test_a_learning_rate_on_the_host_travels(start):
    def build(world):
        model = nn.Linear(3, 2)
        rate = torch.tensor(0.1, device="cpu")
        return TrainState(model, torch.optim.AdamW(model.parameters(), lr=rate))

    session = start(build, initialize=None)
    session.state.optimizer.param_groups[0]["lr"].fill_(0.3)
    session.switch("dp=1")

    assert session.state.optimizer.param_groups[0]["lr"].item() == pytest.approx(0.3)


class Items:
    """An extra that hands over pairs: no name of a parameter leads to a tensor in it."""

    def __init__(self, model):
        self.items = [(name, param.detach().clone()) for name, param in model.named_parameters()]

    def state_dict(self):
        return {"slow": self.items}

    def load_state_dict(self, state_dict):
        self.items = state_dict["slow"]


def with_items(world):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return TrainState(model, optimizer, extra={"items": Items(model)})


# Its load_state_dict was blamed, which does what it should.
def test_what_initialize_leaves_without_memory_is_refused(start):
    with pytest.raises(LayoutError, match="has no memory after initialize") as refused:
        start(with_items, initialize=lambda state, world: None)

    assert "extra.items" in str(refused.value)


# The refusal's last line.
def test_what_initialize_sets_travels(start):
    def fill(state, world):
        state.extra["items"].items = [("weight", torch.full((2, 3), 0.5))]

    session = start(with_items, initialize=fill)
    session.switch("dp=1")
    assert session.state.extra["items"].items[0][1].eq(0.5).all()
