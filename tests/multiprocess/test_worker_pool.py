"""The pool itself: a test that kills, hangs or raises is told so and harms no other test."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch
import torch.distributed as dist

from worker_pool import RankError, WorkerPool


def add_ranks(rank, world_size, offset):
    total = torch.tensor(rank + offset)
    dist.all_reduce(total)
    return int(total), world_size, float(torch.rand(()))


def fail_on_rank_one(rank, world_size):
    if rank == 1:
        raise ValueError("rank one will not")
    dist.barrier()


def hang_on_rank_two(rank, world_size):
    if rank == 2:
        threading.Event().wait()


def answer_late(rank, world_size):
    time.sleep(2.0)
    return "late"


def die_on_rank_zero(rank, world_size):
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return rank


def leave_groups_and_a_mesh(rank, world_size):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world_size,), mesh_dim_names=("dp",))
    doubled = distribute_tensor(torch.ones(world_size, 2), mesh, [Shard(0)]) * 2
    dist.new_group(list(range(world_size)))
    return doubled.device_mesh is mesh and bool((doubled.full_tensor() == 2).all())


# Ranks, world size and seeds are what every test above builds on.
@pytest.mark.parametrize("world_size", [4, 2, 3, 1])
def test_run_gives_every_rank_a_group_of_the_asked_size(pool: WorkerPool, world_size: int):
    expected_sum = sum(range(world_size)) + 10 * world_size
    results = pool.run(add_ranks, 10, world_size=world_size)

    assert [result[:2] for result in results] == [(expected_sum, world_size)] * world_size
    assert len({result[2] for result in results}) == 1


# A traceback without its rank sends the reader to the wrong process.
def test_exception_comes_back_with_rank_and_traceback(pool: WorkerPool):
    with pytest.raises(RankError, match="rank one will not") as caught:
        pool.run(fail_on_rank_one)

    assert 1 in caught.value.ranks
    assert "fail_on_rank_one" in str(caught.value)


# A deadlock must cost a deadline, not the CI job, and must say where it stands.
def test_hung_rank_is_named_with_its_stack(pool: WorkerPool):
    with pytest.raises(RankError, match="hang_on_rank_two") as caught:
        pool.run(hang_on_rank_two, timeout_s=6.0, init_group=False)

    assert caught.value.ranks == [2]


# A crash in native code looks like this: no traceback, only an exit status.
def test_dead_rank_is_named_with_its_signal(pool: WorkerPool):
    with pytest.raises(RankError, match="signal 9") as caught:
        pool.run(die_on_rank_zero)

    assert caught.value.ranks == [0]


# Tests of failures kill a rank on purpose and look at what the others do.
def test_death_that_was_announced_leaves_the_others_results(pool: WorkerPool):
    assert pool.run(die_on_rank_zero, may_die={0}) == [None, 1, 2, 3]


# An answer to a test that has run out of its time would be taken for the result of the next test.
def test_interrupted_run_leaves_no_answer_to_the_next(pool: WorkerPool):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR2, interrupt)
    pool.run(add_ranks, 0)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR2)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.run(answer_late, init_group=False)
    finally:
        signal.signal(signal.SIGUSR2, before)

    assert [result[0] for result in pool.run(add_ranks, 0)] == [6] * 4


# DTensor caches by mesh equality: without clearing, the second run gets the first run's dead mesh.
def test_run_does_not_see_the_groups_of_the_run_before(pool: WorkerPool):
    for _ in range(3):
        assert pool.run(leave_groups_and_a_mesh) == [True] * 4
