"""Errors name the rank that they are about."""

from __future__ import annotations

import os
import signal

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module

import dynatrain
import training_jobs as jobs
from dynatrain import DeviceError, TrainState, TransportError
from dynatrain.generation.messages import Messages
from sessions import start


def leave_in_build(rank, world_size):
    armed = []

    def build(world):
        if armed and rank == 2:
            raise KeyboardInterrupt
        return jobs.build(world)

    session = start("dp=4", build)
    armed.append(True)
    try:
        session.switch("dp=2,tp=2")
    except TransportError as error:
        told = str(error), error.peer
    except KeyboardInterrupt:
        told = "interrupted", -1
    armed.clear()
    return told, session.switch("dp=2,tp=2").epoch


# Survivors were given addresses, a different one each, of which none can be found in a job.
def test_the_others_hear_which_rank_has_left_the_call_and_why(pool):
    results = pool.run(leave_in_build)

    assert [epoch for _, epoch in results] == [1] * 4
    assert results[2][0][0] == "interrupted"
    for rank in (0, 1, 3):
        text, peer = results[rank][0]
        assert "could not finish build" in text
        assert "rank 2 has left the call: KeyboardInterrupt" in text
        assert peer == 2


def be_lost_in_init(rank, world_size, way):
    def build(world):
        if rank == 2 and way == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 2 and way == "leave":
            raise KeyboardInterrupt
        return jobs.build(world)

    try:
        start("dp=4", build)
    except TransportError as error:
        return str(error), error.peer
    except KeyboardInterrupt:
        return "interrupted", -1


# They were given the address of a rank, here and there of one that had only waited as well.
@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("die", "not heard of since: rank 2"),
        ("leave", "rank 2 has left the call: KeyboardInterrupt"),
    ],
)
def test_who_is_lost_while_a_session_begins_is_named(pool, way, words):
    results = pool.run(be_lost_in_init, way, may_die=[2] if way == "die" else [])
    for rank in (0, 1, 3):
        text, peer = results[rank]
        assert "could not finish" in text
        assert words in text
        assert peer == 2


def fail_in_the_transfer(rank, world_size):
    session = start("dp=4")
    lanes = session._part.engine.lanes
    run = lanes["host"].executor

    class Failing:
        def __getattr__(self, name):
            return getattr(run, name)

        def run(self, *args, **options):
            raise DeviceError("the system gives no thread")

    if rank == 2:
        lanes["host"] = dynatrain.generation.lanes.Lane(
            "c10d", lanes["host"].transport, Failing(), lanes["host"].max_direct
        )
    with pytest.raises(dynatrain.Error) as caught:
        session.switch("dp=2,tp=2")
    return type(caught.value).__name__, str(caught.value)


# What the others met followed from it, and was told first where their ranks were lower.
def test_the_cause_of_a_failed_transfer_is_told_before_what_follows_from_it(pool):
    for kind, text in pool.run(fail_in_the_transfer):
        assert kind == "DeviceError"
        assert "the system gives no thread" in text


def build_rows(world):
    """Layers of which ranks 0 and 1 exchange parts, and 2 and 3, and no others."""
    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(2)))
    if world.enabled("tp"):
        parallelize_module(model, world.mesh["tp"], {str(n): RowwiseParallel() for n in range(2)})
    mesh = world.submesh("dp_replicate", "dp_shard")
    if mesh is not None:
        fully_shard(model, mesh=mesh)
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))


def leave_an_exchange(rank, world_size):
    session = start("dp=4", build_rows, initialize=None)
    session.prepare("dp=2,tp=2")
    control, store = session._part.engine.control, dist.group.WORLD.get_group_store()
    messages, agree = control._tree._levels[0]._messages, control.agree

    def heard(*given):
        answer = agree(*given)
        store.set("rank 2 has the answer", "")
        return answer

    def left(*given, **how):
        store.wait(["rank 2 has the answer"])
        raise KeyboardInterrupt

    if rank == 1:
        messages.post = lambda buffer, to, *given, **how: (
            left() if list(to) == [3] else Messages.post(messages, buffer, to, *given, **how)
        )
    if rank == 2:
        control.agree = heard
    with pytest.raises((TransportError, KeyboardInterrupt)):
        session.switch("dp=2,tp=2")
    return session.switch("dp=2,tp=2").epoch


# Rank 1 does not pass an answer on to rank 3. Rank 2 has it, and waited in a lane for rank 3, which
# had let go of the exchange alone.
def test_who_waits_in_a_lane_hears_of_an_exchange_that_failed(pool):
    assert pool.run(leave_an_exchange) == [1] * 4
