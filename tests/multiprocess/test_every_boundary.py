"""Laws 4, 6 and 7 at every boundary of a switch: before and after each exchange of all ranks, and
of what they publish beside one.

One rank is killed, stopped for longer than the deadline, interrupted, or out of memory there. Ranks
that live end their call, no two of them in different worlds, and with membership unchanged the next
switch works in the same processes.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from dataclasses import dataclass

import pytest
import torch.distributed as dist

import training_jobs as jobs
from boundaries import Boundaries, outcome_of, run_out
from dynatrain import InternalError
from sessions import start

#: Ranks that wait for a dead or stopped one wait so long; the short run shares its machine.
SHORT_DEADLINE_S, LONG_DEADLINE_S = 8, 4
#: Boundaries of a switch in their order; the first and the last but one are meetings, and those
#: that are said are published beside the exchange before them.
COLD = (
    "call",
    "world",
    "build",
    "source said",
    "slots",
    "target said",
    "plan",
    "memory",
    "values",
    "values said",
    "arrival",
    "vote",
    "report",
)
PREPARED = ("call", "values", "values said", "arrival", "vote", "report")
TROUBLES = ("killed", "stopped", "interrupted", "out of memory")


@dataclass(frozen=True)
class Case:
    """The trouble of one rank, before or after the n-th exchange of a switch."""

    number: int
    side: str
    kind: str
    victim: int
    prepared: bool
    deadline_s: int


def stand_still(deadline_s):
    """Stops this process until everybody has given up on it."""
    wake = f"sleep {1.5 * deadline_s}; kill -CONT {os.getpid()}"
    subprocess.Popen(["/bin/sh", "-c", wake], start_new_session=True)
    os.kill(os.getpid(), signal.SIGSTOP)


def trouble_of(case):
    return {
        "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "stopped": lambda: stand_still(case.deadline_s),
        "interrupted": lambda: os.kill(os.getpid(), signal.SIGINT),
        "out of memory": run_out,
    }[case.kind]


def switch_in_trouble(rank, world_size, case):
    session = start("dp=4", timeout_s=case.deadline_s)
    before = jobs.local_bits(session.state)
    if case.prepared:
        session.prepare("dp=2,tp=2")
    watch = None
    if rank == case.victim:
        watch = Boundaries(session._part, case.number, case.side, trouble_of(case))
    error = outcome_of(lambda: session.switch("dp=2,tp=2"))
    if watch is not None:
        assert watch.hits == 1, "the switch has fewer boundaries than the test knows"
    undecided = isinstance(outcome_of(lambda: session.state), InternalError)
    layout = str(session.layout)
    if layout == "dp=4" and not undecided:
        assert jobs.same_bits(before, jobs.local_bits(session.state))
    lost = case.kind == "killed" or any_undecided(undecided)
    following = None
    if not lost:
        report = session.switch("tp=4")
        following = report.epoch, session.fingerprint()
        jobs.train_step(session.state, session.world, 0)
    return (None if undecided else layout), error is None, following


def any_undecided(mine):
    """Asks over the script's own group, as a step of training would bring the ranks together."""
    answers = [None] * dist.get_world_size()
    dist.all_gather_object(answers, mine)
    return any(answers)


def check(pool, case):
    may_die = {case.victim} if case.kind == "killed" else ()
    results = pool.run(switch_in_trouble, case, may_die=may_die, timeout_s=90)
    alive = [each for rank, each in enumerate(results) if rank not in may_die]
    assert all(each is not None for each in alive)
    layouts = {layout for layout, *_ in alive}
    if case.kind == "out of memory":  # the rank itself may not know how its vote ended
        layouts.discard(None)
    assert len(layouts) == 1
    assert None not in layouts
    assert len({following for *_, following in alive}) == 1


def cases(names, victims, troubles, sides, deadline_s):
    prepared = names is PREPARED
    return [
        pytest.param(
            Case(number, side, kind, victim, prepared, deadline_s),
            id=f"{kind} {side} {name}{', prepared' if prepared else ''}, rank {victim}",
        )
        for (number, name), side, kind, victim in itertools.product(
            enumerate(names, 1), sides, troubles, victims
        )
    ]


SHORT = [
    case
    for case in (
        *cases(COLD, [2], ["killed"], ["before"], SHORT_DEADLINE_S),
        *cases(COLD, [1], ["interrupted"], ["after"], SHORT_DEADLINE_S),
        *cases(PREPARED, [3], ["out of memory"], ["before"], SHORT_DEADLINE_S),
    )
    if " said" not in str(case.id)  # threads try there, at every boundary
]
EVERY = [
    *cases(COLD, [0, 3], TROUBLES, ["before", "after"], LONG_DEADLINE_S),
    *cases(PREPARED, [1], TROUBLES, ["before", "after"], LONG_DEADLINE_S),
]


@pytest.mark.parametrize("case", SHORT)
def test_law7_trouble_at_a_boundary_splits_no_world(pool, case):
    check(pool, case)


@pytest.mark.long
@pytest.mark.parametrize("case", EVERY)
def test_law7_no_trouble_at_any_boundary_splits_a_world(pool, case):
    check(pool, case)
