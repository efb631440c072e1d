"""The likely mistakes: each is refused on all ranks, and the training goes on as if nothing was."""

from __future__ import annotations

import random
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist

import dynatrain
import training_jobs as jobs
from dynatrain import LayoutError, TransportError
from sessions import TIMEOUT_S, start

SOURCE, TARGET = "dp=4", "dp=2,tp=2"


def refuse_and_go_on(rank, world_size, mistake):
    """Trains, makes the mistake if there is one, trains on, switches and trains on.

    Returns the error, what it changed, the switch's layouts, the steps' outcomes, the last bits.
    """
    broken = {"on": False}

    def build(world):
        if mistake is None or mistake.build is None:
            return jobs.build(world)
        return mistake.build(world, broken["on"])

    random.seed(rank)  # a stream that belongs to a coordinate, beside two that do not
    np.random.seed(0)
    session = start(SOURCE, build)
    outcomes = [step_outcome(session, 0)]
    streams, before = read_random_streams(), jobs.whole_state(session.state)
    error = None
    if mistake is not None:
        broken["on"] = True
        try:
            mistake.call(session, mistake.target or TARGET)
        except dynatrain.Error as caught:
            error = (type(caught).__name__, str(caught))
        broken["on"] = False
        session.state.optimizer.zero_grad()
    differing = jobs.differences(before, jobs.whole_state(session.state))
    same_streams = streams == read_random_streams()
    outcomes.append(step_outcome(session, 1))
    report = session.switch(TARGET)
    outcomes.append(step_outcome(session, 2))
    end = jobs.whole_state(session.state)
    session.close()
    return error, differing, same_streams, (report.source, report.target), outcomes, end


def read_random_streams():
    """The random streams of the process; read without dynatrain's adapters."""
    name, keys, *rest = np.random.get_state()
    return random.getstate(), (name, keys.tobytes(), *rest), torch.get_rng_state().tolist()


def step_outcome(session, step):
    """Draws from every stream and trains a step; returns what was drawn and the loss."""
    drawn = random.random(), np.random.rand(), torch.rand(()).item()
    return drawn, jobs.train_step(session.state, session.world, step)


class Mistake:
    """What is done wrong; `words` must all be in the message of every rank."""

    def __init__(self, words, build=None, call=None, target=None):
        self.words = words
        self.build = build
        self.call = call or (lambda session, target: session.switch(target))
        self.target = target


def with_model_change(change):
    def build(world, broken):
        state_builder = jobs.Mlp

        def changed():
            model = state_builder()
            if broken:
                change(model)
            return model

        jobs.Mlp, original = changed, jobs.Mlp
        try:
            return jobs.build(world)
        finally:
            jobs.Mlp = original

    return build


def drop_bias(model):
    model.head.bias = None


def add_parameter(model):
    model.surplus = torch.nn.Parameter(torch.zeros(3))


def widen_head(model):
    model.head = torch.nn.Linear(jobs.WIDTH, 9)


def halve_head(model):
    model.head = torch.nn.Linear(jobs.WIDTH, 7, dtype=torch.bfloat16)


def failing(world, broken):
    if broken and world.rank == 1:
        raise KeyError("the user's own mistake")
    return jobs.build(world)


def drawing(world, broken):
    if broken:
        random.random()
        torch.rand(3, device="cpu")
    return jobs.build(world)


def communicating(world, broken):
    if broken:
        dist.all_reduce(torch.ones(1, device="cpu"))
    return jobs.build(world)


def returning_nothing(world, broken):
    return None if broken else jobs.build(world)


def hold_gradients(session, target):
    for param in session.state.model.parameters():
        param.grad = torch.zeros_like(param)
    session.switch(target)


def inside_backward(session, target):
    caught = []
    probe = torch.ones(2, requires_grad=True)

    def hook(grad):
        try:
            session.switch(target)
        except dynatrain.Error as error:
            caught.append(error)

    probe.register_hook(hook)
    probe.sum().backward()
    raise caught[0]


def different_layouts(session, target):
    session.switch(target if dist.get_rank() else "tp=4")


def prepare_ahead(session, target):
    session.prepare(target)


def prepare_on_some(session, target):
    (session.prepare if dist.get_rank() else session.switch)(target)


class OddBatch:
    """A kept object that cannot serve two data parallel ranks."""

    def __init__(self):
        self.sampler = dynatrain.ElasticSampler(64, 12)

    def check_layout(self, layout):
        dynatrain.ElasticSampler(64, 13 if layout.tp > 1 else 12).check_layout(layout)


def batch_does_not_divide(session, target):
    session._now.keep["odd"] = OddBatch()
    try:
        session.switch(target)
    finally:
        del session._now.keep["odd"]


MISTAKES = {
    "batch does not divide": Mistake(["13", "multiple of 2"], call=batch_does_not_divide),
    "layout too large": Mistake(["needs 8 ranks", "has 4"], target="dp=4,tp=2"),
    "missing tensor": Mistake(["head.bias", "missing"], with_model_change(drop_bias)),
    "extra tensor": Mistake(["surplus"], with_model_change(add_parameter)),
    "other shape": Mistake(["head.weight", "[9, 12]", "[7, 12]"], with_model_change(widen_head)),
    "other dtype": Mistake(["head.weight", "bfloat16"], with_model_change(halve_head)),
    "exception in build": Mistake(["the user's own mistake"], failing),
    "exception in build ahead": Mistake(["the user's own mistake"], failing, call=prepare_ahead),
    "random draw in build": Mistake(["random numbers", "torch.cpu"], drawing),
    "collective in build": Mistake(["collective"], communicating),
    "build returns nothing": Mistake(["NoneType", "TrainState"], returning_nothing),
    "gradients held": Mistake(["gradients"], call=hold_gradients),
    "inside backward": Mistake(["inside backward"], call=inside_backward),
    "ranks disagree": Mistake(["different calls", "tp=4"], call=different_layouts),
    "ranks disagree ahead": Mistake(["different calls", "prepare"], call=prepare_on_some),
    "missing tensor ahead": Mistake(
        ["head.bias", "missing"], with_model_change(drop_bias), call=prepare_ahead
    ),
}


@pytest.fixture(scope="module")
def unmistaken(pool):
    """Every rank's steps and last bits in a run without a mistake."""
    return [(outcomes, end) for *_, outcomes, end in pool.run(refuse_and_go_on, None)]


# A mistake found after bytes moved would cost the run; found on one rank only, it would hang it;
# one that left a trace would bend the training without a word.
@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_refused_everywhere_and_leaves_no_trace(pool, unmistaken, name):
    mistake = MISTAKES[name]

    answers = pool.run(refuse_and_go_on, mistake)

    for (error, differing, same_streams, layouts, *rest), (outcomes, end) in zip(
        answers, unmistaken, strict=True
    ):
        assert error is not None, "the mistake was accepted"
        kind, text = error
        assert kind == "LayoutError"
        assert "intact" in text
        for word in mistake.words:
            assert word in text
        assert differing == []
        assert same_streams
        assert layouts == (SOURCE, TARGET)
        assert rest[0] == outcomes
        assert jobs.differences(end, rest[1]) == []


def rename(rank, world_size):
    def build(world):
        state = jobs.build(world)
        if world.layout.tp > 1:
            state.model.top = state.model.head
            del state.model.head
        return state

    session = dynatrain.init(build, "dp=4", initialize=jobs.initialize, timeout_s=20)
    jobs.train_step(session.state, session.world, 0)
    before = jobs.whole_state(session.state)
    with pytest.raises(LayoutError, match=r"head\.weight"):
        session.switch("dp=2,tp=2")
    names = {"head.weight": "top.weight", "head.bias": "top.bias"}
    session.switch("dp=2,tp=2", names=names)
    after = jobs.whole_state(session.state)
    renamed = {
        next((new + k[len(old) :] for old, new in names.items() if k.startswith(old)), k): v
        for k, v in before.items()
    }
    return jobs.differences(renamed, after)


# Models are renamed in the course of a month; the map of names is the way through.
def test_names_map_lets_renamed_tensors_through(pool):
    assert pool.run(rename) == [[], [], [], []]


def call_on_some(rank, world_size, callers):
    session = start("dp=4")
    jobs.train_step(session.state, session.world, 0)
    error = None
    if rank in callers:
        session._part.generation.meeting._timeout = timedelta(seconds=3)  # of this call alone
        try:
            session.switch("dp=2,tp=2")
        except TransportError as caught:
            error = str(caught)
        session._part.generation.meeting._timeout = timedelta(seconds=TIMEOUT_S)
    for step in (1, 2):
        jobs.train_step(session.state, session.world, step)
    report = session.switch("dp=2,tp=2")
    return error, report.epoch


# Half a call must not hang the callers for ever, nor disturb those who did not call.
def test_call_on_some_ranks_names_the_missing_ones(pool):
    results = pool.run(call_on_some, [0, 2])

    for rank, (error, epoch) in enumerate(results):
        assert epoch == 1
        if rank in (0, 2):
            assert "[1, 3]" in error
            assert "intact" in error
        else:
            assert error is None
