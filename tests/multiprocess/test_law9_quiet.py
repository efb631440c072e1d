"""Law 9: with no switch pending, a training step pays nothing for being switchable."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dynatrain
import training_jobs as jobs

NUM_STEPS = 20


class CountCollectives(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "c10d" in func.namespace:
            self.calls.append(str(func))
        return func(*args, **(kwargs or {}))


def calls_between_steps(rank, world_size):
    """Every function that runs between one step's end and the next one's start."""
    session = dynatrain.init(jobs.build, "dp=2", initialize=jobs.initialize, timeout_s=20)
    seen = []

    def watch(frame, event, argument):
        if event == "c_call":
            seen.append(("C", argument.__qualname__))
        elif event == "call":
            seen.append(("Python", frame.f_code.co_qualname if sys.version_info >= (3, 11) else ""))

    for step in session.steps(NUM_STEPS):
        sys.setprofile(None)
        jobs.train_step(session.state, session.world, step)
        sys.setprofile(watch)
    sys.setprofile(None)
    return [kind for kind, _ in seen], sorted({name for kind, name in seen if kind == "C"})


# A store read or a collective between steps would be a C call here; a poll would be one, too.
def test_law9_no_c_call_runs_between_two_steps(pool):
    for kinds, c_functions in pool.run(calls_between_steps, world_size=2):
        assert [name for name in c_functions if name != "setprofile"] == []
        assert len(kinds) < 12 * NUM_STEPS


def collectives_of_steps(rank, world_size, with_session):
    counter = CountCollectives()
    session = dynatrain.init(jobs.build, "dp=2", initialize=jobs.initialize, timeout_s=20)
    state, world = session.state, session.world
    with counter:
        for step in session.steps(NUM_STEPS) if with_session else range(NUM_STEPS):
            jobs.train_step(state, world, step)
    return counter.calls


# The model's own collectives stay; the library adds none.
def test_law9_steps_run_the_same_collectives_with_and_without_the_loop(pool):
    with_loop = pool.run(collectives_of_steps, True, world_size=2)
    without = pool.run(collectives_of_steps, False, world_size=2)

    assert with_loop == without
    assert len(with_loop[0]) > NUM_STEPS


def wakeups_of_other_threads(rank, world_size):
    """Voluntary context switches of all threads but this one, over steps of a world of one.

    Left out: Gloo's event loops, which tick on a timer of their own in every process group.
    """
    session = dynatrain.init(jobs.build, "dp=1", initialize=jobs.initialize, timeout_s=20)

    def switches():
        total = {}
        for task in Path("/proc/self/task").iterdir():
            if "gloo" in (task / "comm").read_text():
                continue
            lines = (task / "status").read_text().splitlines()
            total[task.name] = int(
                next(line for line in lines if line.startswith("voluntary_ctxt")).split()[1]
            )
        return total

    steps = session.steps(2 * NUM_STEPS)
    for _ in range(NUM_STEPS):
        jobs.train_step(session.state, session.world, next(steps))
    before = switches()
    main = str(threading.get_native_id())
    for _ in range(NUM_STEPS):
        jobs.train_step(session.state, session.world, next(steps))
    after = switches()
    return {task: after[task] - before.get(task, 0) for task in after if task != main}


# A thread that polls a store or a socket wakes up; the library's threads sleep through a step.
@pytest.mark.skipif(
    torch.__version__ < "2.15", reason="Gloo's event loops have no name to tell them by"
)
def test_law9_no_thread_of_the_library_wakes_up_during_steps(pool):
    (wakeups,) = pool.run(wakeups_of_other_threads, world_size=1)

    assert sum(wakeups.values()) == 0, wakeups
