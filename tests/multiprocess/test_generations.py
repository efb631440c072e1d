"""Generations as values: several at a time, of any members, made beside what others do."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dynatrain.generation.generation import Generation
from dynatrain.generation.members import Members
from dynatrain.generation.options import Options
from worker_pool import WorkerPool

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counted in /proc")

#: Not the first ranks of the job, and not in its order.
CHOSEN = (3, 1, 2)


def generation_of(members):
    options = Options(timedelta(seconds=30), 1 << 20, None, 1, "auto", frozenset(), 0)
    return Generation(members, options, torch.device("cpu"))


def opened():
    """Threads and sockets of this process."""
    links = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(path))
        except FileNotFoundError:  # that of the listing itself
            continue
    return len(list(Path("/proc/self/task").iterdir())), sum("socket:" in link for link in links)


def chosen_of(job, rank):
    """The chosen members of a job, with a connection to the store of their own."""
    store = job.store_of("chosen").clone()
    return Members("chosen", CHOSEN.index(rank), tuple(job.each[each] for each in CHOSEN), store)


def two_generations(rank, world_size):
    job = Members.of_job()
    first = generation_of(job)
    first.connect("start")
    first.control.agree("the first words", None, None)
    before = opened()
    second, thread = None, threading.Thread(target=lambda: None)
    if rank in CHOSEN:
        second = generation_of(chosen_of(job, rank))
        thread = threading.Thread(target=second.connect, args=("start",))
    thread.start()
    exchanges = 0
    while first.control.agree("beside", None, thread.is_alive(), any):
        exchanges += 1
    thread.join()
    heard, met = [], []
    if second is not None:
        heard = second.control.gather(rank, "a test")
        met = list(second.meeting.meet(str(rank).encode()).payloads)
        second.close()
    del second, thread
    first.control.agree("both are closed", None, None)
    return heard, met, job.store_of("chosen").list_keys(), before, opened()


# The next ones are made while the present ones train, of whoever will be there: rank 0 may leave.
def test_a_generation_of_other_members_is_made_beside_another_one_and_leaves_nothing(
    pool: WorkerPool,
):
    for rank, (heard, met, keys, before, after) in enumerate(pool.run(two_generations)):
        assert heard == (list(CHOSEN) if rank in CHOSEN else [])
        assert met == ([b"3", b"1", b"2"] if rank in CHOSEN else [])
        assert keys == []
        # What an earlier session still closes in the background may be gone by then.
        assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)


def connect_again(rank, world_size):
    job = Members.of_job()
    generation = generation_of(job)
    counts = []
    for connection in ("start", "1", "2"):
        generation.disconnect("the test wants it")
        generation.connect(connection)
        generation.meeting.meet(b"all are connected")
        generation.meeting.leftovers.sweep(lambda: False)  # as where rank 0 waits
        generation.meeting.meet(b"all is swept")
        counts.append(sum(not key.startswith("meet/") for key in job.store.list_keys()))
        generation.meeting.meet(b"all have counted")
    generation.close()
    return counts


def test_connections_that_are_over_leave_no_keys_in_the_store(pool: WorkerPool):
    for counts in pool.run(connect_again):
        assert counts == counts[:1] * len(counts)


def close_beside_a_store_that_does_not_answer(rank, world_size):
    generation = generation_of(Members.of_job())
    generation.connect("start")
    silent = SimpleNamespace(add=lambda *_: threading.Event().wait())  # its host is stopped
    generation.members = replace(generation.members, store=silent)
    generation.close()
    return generation.connected


# A client of a store has no deadline: a rank that closes behind a failure stood there for ever.
def test_close_does_not_wait_for_a_store_that_has_stopped(pool: WorkerPool):
    assert pool.run(close_beside_a_store_that_does_not_answer, world_size=2) == [False, False]
    pool.close()  # a thread of theirs waits on
