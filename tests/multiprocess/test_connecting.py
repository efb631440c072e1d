"""What one rank cannot make of its lanes ends `init`, or a call, on all ranks at once and alike."""

from __future__ import annotations

import pytest
import torch

import training_jobs as jobs
from dynatrain import DeviceError, _native, api
from sessions import outcome, start, works

ERRORS = {
    "DeviceError": DeviceError("execution: the system gives no more threads"),
    "BudgetError": MemoryError("no room"),
    "TransportError": RuntimeError("[gloo] connection refused"),
}


def cannot_make(rank, world_size, what, kind):
    original = getattr(_native, what)

    def fail(*_args, **_kwargs):
        raise ERRORS[kind]

    if rank == 1:
        setattr(_native, what, fail)
    ended = outcome(start)
    setattr(_native, what, original)
    return ended, start().switch("dp=2,tp=2").epoch


# The rank ended by itself, and the others waited for it in the making of groups, for the deadline.
@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("CpuCopier", "DeviceError"),
        ("CpuCopier", "BudgetError"),
        ("C10dTransport", "TransportError"),
        ("C10dTransport", "BudgetError"),
        ("Executor", "DeviceError"),
    ],
)
def test_what_one_rank_cannot_make_in_init_ends_it_on_all_at_once(pool, what, kind):
    for rank, ((got, text), epoch) in enumerate(pool.run(cannot_make, what, kind)):
        assert (got, epoch) == (kind, 1)
        assert str(ERRORS[kind]) in text
        assert rank == 1 or "rank 1: " in text


def cannot_make_again(rank, world_size):
    session = start()
    jobs.train_step(session.state, session.world, 0)
    before, original = jobs.whole_state(session.state), _native.Executor

    def fail(*_args):
        raise ERRORS["DeviceError"]

    session._part.generation.disconnect("the test wants it")
    if rank == 3:
        _native.Executor = fail
    ended = outcome(lambda: session.switch("dp=2,tp=2"))
    _native.Executor = original
    same = jobs.differences(before, jobs.whole_state(session.state)) == []
    return ended, same, session.switch("dp=2,tp=2").epoch


def test_what_one_rank_cannot_make_again_refuses_the_call_on_all(pool):
    for (kind, text), same, epoch in pool.run(cannot_make_again):
        assert (kind, same, epoch) == ("DeviceError", True, 1)
        assert "no more threads" in text


def ask_for_a_transport_of_gpus_without_one(rank, world_size):
    original = api.take_device
    if rank != 1:
        api.take_device = lambda *_: torch.device("cuda", 0)
    ended = outcome(lambda: start(transport="nccl"))
    api.take_device = original
    return ended, works()


# Devices may differ between ranks: a rank that raised by itself left the others waiting for it.
def test_transport_that_one_rank_has_no_device_for_is_refused_on_all(pool):
    results = pool.run(ask_for_a_transport_of_gpus_without_one)

    for rank, ((kind, text), goes_on) in enumerate(results):
        assert (kind, goes_on) == ("DeviceError", True)
        assert "transport='nccl' moves device memory, and the session's device is cpu" in text
        assert "nothing was started" in text
        assert rank == 1 or "refused by 1 of the ranks\n  rank 1: " in text
