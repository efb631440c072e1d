"""``transport="shared_memory"``: ranks of one machine read each other's host memory in place."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch

import dynatrain
import training_jobs as jobs
from dynatrain import BudgetError, TransportError, _native
from unreadable import Unreadable

#: The first switch finds optimizer slots in memory of malloc, the others what a switch has made.
LAYOUTS = ("dp=4", "dp=2,tp=2", "tp=4", "dp=3", "dp_replicate=2,dp=2")


def session_over(transport, layout="dp=4", timeout_s=20.0):
    return dynatrain.init(
        jobs.build,
        layout,
        initialize=jobs.initialize,
        timeout_s=timeout_s,
        transport=transport,
        verify=("sums", "fingerprint"),
    )


def train_through(rank, world_size, transport):
    session = session_over(transport)
    losses, phases, staging = [], [], []
    for step in session.steps(2 * len(LAYOUTS)):
        losses.append(jobs.train_step(session.state, session.world, step))
        if step % 2 and step // 2 + 1 < len(LAYOUTS):
            report = session.switch(LAYOUTS[step // 2 + 1])
            phases.append({span.phase for span in report.timeline})
            staging.append(report.staging_peak_bytes)
    whole = jobs.whole_state(session.state) if session.active else None
    session.close()
    return losses, whole, phases, staging


# Law 1, by the other way: what is read in place must be what messages would have brought.
def test_training_goes_on_as_with_messages(pool):
    in_place = pool.run(train_through, "shared_memory")
    by_messages = pool.run(train_through, "c10d")

    assert_same_training(in_place, by_messages)
    for _, _, phases, staging in in_place:
        assert all("pack" not in each for each in phases)
        assert not any(staging)


def assert_same_training(some, others):
    for (losses, whole, _, _), (expected, state, _, _) in zip(some, others, strict=True):
        assert losses == expected
        assert (whole is None) == (state is None)
        if whole is not None:
            assert jobs.differences(whole, state) == []


def train_unreadable(rank, world_size, transport):
    with Unreadable():
        return train_through(rank, world_size, transport)


# What the system does not let peers read goes by messages, and only that.
def test_memory_that_the_system_forbids_to_read_goes_by_messages(pool):
    forbidden = pool.run(train_unreadable, "shared_memory")
    by_messages = pool.run(train_through, "c10d")

    assert_same_training(forbidden, by_messages)
    for _, _, phases, staging in forbidden:
        if phases:
            assert "pack" in phases[0]
            assert all("pack" not in each for each in phases[1:])
            assert staging[0] > 0
            assert not any(staging[1:])


def tensors_of(state):
    params = list(state.model.parameters())
    slots = [slot for each in state.optimizer.state.values() for slot in each.values()]
    return [getattr(each, "_local_tensor", each).detach() for each in params + slots]


class Dying:
    """An executor whose rank dies when it is to move bytes; its peers have its memory mapped."""

    def __init__(self, executor):
        self.executor = executor

    def run(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    def __getattr__(self, name):
        return getattr(self.executor, name)


def lose_a_rank(rank, world_size, source, target):
    session = session_over("shared_memory", timeout_s=10)
    for step in session.steps(1):
        jobs.train_step(session.state, session.world, step)
    if source != str(session.layout):
        session.switch(source)
    session.prepare(target)  # every rank has mapped what it is going to read
    before = [each.clone() for each in tensors_of(session.state)]
    if rank == 2:
        lanes = session._part.engine.lanes
        lanes["host"] = replace(lanes["host"], executor=Dying(lanes["host"].executor))
    try:
        session.switch(target)
    except TransportError as error:
        kept = all(map(torch.equal, before, tensors_of(session.state)))
        return str(error), str(session.layout), kept
    return "switched", str(session.layout), False


# Law 7: memory of a dead process stays mapped here, and must not pass for a part of the state; its
# own memory is gone in the middle of a read.
@pytest.mark.parametrize(
    ("source", "target"),
    [("dp=2,tp=2", "dp=4"), ("dp=4", "dp=2,tp=2")],
    ids=["mapped", "its own"],
)
def test_peer_that_dies_in_a_switch_is_named_and_the_state_stays(pool, source, target):
    results = pool.run(lose_a_rank, source, target, may_die=[2])
    dead, *others = sorted(results, key=lambda each: each is not None)

    assert dead is None
    for text, layout, kept in others:
        assert "rank 2" in text
        assert dynatrain.Layout.parse(layout) == dynatrain.Layout.parse(source)
        assert kept


def switch_many_times(rank, world_size, times):
    session = session_over("shared_memory")
    for step in session.steps(1):
        jobs.train_step(session.state, session.world, step)
    counts = []
    for _ in range(times):
        session.switch("dp=2,tp=2")
        session.switch("dp=4")
        counts.append((len(os.listdir("/proc/self/fd")), blocks_mapped()))
    session.close()
    return counts


def blocks_mapped():
    with open("/proc/self/maps") as maps:
        return sum("memfd:dynatrain" in line for line in maps)


# A block that outlives its state, or a mapping its run, is memory that training does not get back.
def test_blocks_and_mappings_end_with_what_they_are_for(pool):
    for counts in pool.run(switch_many_times, 6):
        assert len({mapped for _, mapped in counts[1:]}) == 1
        assert counts[-1][0] <= counts[1][0]


def lay_out(rank, world_size):
    session = session_over("shared_memory", "dp=2")
    session.switch("dp_replicate=2")
    held = session.active and all(
        _native.SharedBlock.holds(each.untyped_storage().data_ptr())
        for each in tensors_of(session.state)
        if each.numel()
    )
    session.close()
    return held


def test_all_of_a_target_lies_where_peers_can_read_it(pool):
    assert pool.run(lay_out, world_size=2) == [True, True]


@pytest.mark.parametrize("device", ["cuda:0"])
def test_memory_of_devices_is_not_shared_so(device):
    from dynatrain.generation.lanes import check_transport

    with pytest.raises(dynatrain.DeviceError, match="moves host memory"):
        check_transport("shared_memory", torch.device(device))


def switch_over_the_budget(rank, world_size):
    session = dynatrain.init(
        jobs.build,
        "dp=4",
        initialize=jobs.initialize,
        timeout_s=20,
        transport="shared_memory",
        memory_budget_bytes=1000,
    )
    with pytest.raises(BudgetError) as caught:
        session.switch("dp=2,tp=2")
    session.close()
    return str(caught.value)


# A budget of switches refused the job itself, and told it to stream, which blocks cannot.
def test_a_budget_refuses_a_switch_and_not_the_job(pool):
    for text in pool.run(switch_over_the_budget):
        assert "raise memory_budget_bytes" in text
        assert "auto" not in text
