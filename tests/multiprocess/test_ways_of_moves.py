"""One switch, two ways: what ranks of a machine can read is read in place, the rest is sent.

Machines are processes that take different names for their own.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch

import training_jobs as jobs
from dynatrain import TransportError, arguments
from multiprocess.test_shared_memory import session_over
from unreadable import Unreadable

#: The first switch finds slots in memory of malloc, the others what a switch has made.
LAYOUTS = ("dp=4", "dp=2,tp=2", "dp=3", "dp_replicate=2,dp=2")


def session_of(rank, transport, ranks_per_machine=2, layout="dp=4", timeout_s=20.0):
    asked = arguments.node_name
    arguments.node_name = lambda: f"machine {rank // ranks_per_machine}"
    try:
        return session_over(transport, layout, timeout_s)
    finally:
        arguments.node_name = asked


def train_through(rank, world_size, transport):
    session = session_of(rank, transport)
    losses, reports = [], []
    for step in session.steps(2 * len(LAYOUTS)):
        losses.append(jobs.train_step(session.state, session.world, step))
        if step % 2 and step // 2 + 1 < len(LAYOUTS):
            reports.append(session.switch(LAYOUTS[step // 2 + 1]))
    whole = jobs.whole_state(session.state) if session.active else None
    session.close()
    return losses, whole, [bytes_of(each) for each in reports], [str(each) for each in reports]


def bytes_of(report):
    """What was read in place, what ranks of one machine had for each other, and all of it."""
    within = sum(size for src, dst, size in report.traffic if src // 2 == dst // 2)
    return report.bytes_in_place, within, report.bytes_moved


# A job of several machines was refused, and would have sent what a neighbour could read.
def test_ranks_read_on_their_machine_and_send_to_others(pool):
    divided = pool.run(train_through, "shared_memory")
    by_messages = pool.run(train_through, "c10d")

    for (losses, whole, _, _), (expected, state, _, _) in zip(divided, by_messages, strict=True):
        assert losses == expected
        assert (whole is None) == (state is None)
        if whole is not None:
            assert jobs.differences(whole, state) == []
    _, _, reports, texts = divided[0]
    assert all(in_place == within for in_place, within, _ in reports)
    assert any(0 < in_place < moved for in_place, _, moved in reports)
    assert all("in place and" in text for text, each in zip(texts, reports, strict=True) if each[0])
    assert all(in_place == 0 for in_place, _, _ in by_messages[0][2])


def lay_some_of_it_elsewhere(rank, world_size):
    """Rank 1 has a third of what it sends in memory of its own, as a hook of a script may."""
    with Unreadable():
        return switch_with_some_of_it_elsewhere(rank)


def switch_with_some_of_it_elsewhere(rank):
    session = session_of(rank, "shared_memory", ranks_per_machine=4)
    for step in session.steps(1):
        jobs.train_step(session.state, session.world, step)
    session.switch("dp=2,tp=2")
    if rank == 1:
        for slots in session.state.optimizer.state.values():
            slots["exp_avg"] = slots["exp_avg"].clone()
    before = jobs.whole_state(session.state)
    report = session.switch("dp=4")
    after = jobs.whole_state(session.state)
    session.close()
    sent = sum(size for src, _, size in report.traffic if src == 1)
    return jobs.differences(before, after), report.bytes_moved - report.bytes_in_place, sent


# Nothing was read in place where one tensor of one rank could not be.
def test_only_what_cannot_be_read_is_sent(pool):
    for differing, by_messages, sent in pool.run(lay_some_of_it_elsewhere):
        assert differing == []
        assert by_messages == sent / 3 > 0


def tensors_of(state):
    params = list(state.model.parameters())
    slots = [slot for each in state.optimizer.state.values() for slot in each.values()]
    return [getattr(each, "_local_tensor", each).detach() for each in params + slots]


class Dying:
    """An executor whose rank dies in one of its runs."""

    def __init__(self, executor, last_run):
        self.executor = executor
        self.left = last_run

    def run(self, *args, **kwargs):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.executor.run(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.executor, name)


def lose_a_rank(rank, world_size, last_run):
    session = session_of(rank, "shared_memory", timeout_s=10)
    for step in session.steps(1):
        jobs.train_step(session.state, session.world, step)
    session.switch("dp=2,tp=2")
    session.prepare("tp=4")
    before = [each.clone() for each in tensors_of(session.state)]
    if rank == 2:
        lanes = session._part.engine.lanes
        lanes["host"] = replace(lanes["host"], executor=Dying(lanes["host"].executor, last_run))
    try:
        session.switch("tp=4")
    except TransportError as error:
        kept = all(map(torch.equal, before, tensors_of(session.state)))
        return str(error), kept
    return "switched", False


# Law 7: a rank of another machine is in the second run while its peer dies in the first.
@pytest.mark.parametrize("last_run", [1, 2])
def test_peer_that_dies_in_either_run_is_named_and_the_state_stays(pool, last_run):
    results = pool.run(lose_a_rank, last_run, may_die=[2])

    assert results[2] is None
    for text, kept in results[:2] + results[3:]:
        assert "rank 2" in text
        assert kept
