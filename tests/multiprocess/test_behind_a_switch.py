"""The rest of a loop's body behind a switch: ranks that joined are in the next step already."""

from __future__ import annotations

import torch
import torch.distributed as dist

import training_jobs as jobs
from sessions import refused, start


class Kept:
    """Meets all ranks of each world when it is told of it."""

    def __init__(self):
        self.world, self.sums = None, []

    def on_world(self, world):
        self.world = world
        if world is not None and world.group("dp_shard") is not None:
            total = torch.ones(1)
            dist.all_reduce(total, group=world.group("dp_shard"))
            self.sums.append(int(total))


def refusals(session, kept):
    return [
        refused(call)
        for call in (
            lambda: session.state,
            lambda: session.world,
            lambda: kept.world.mesh,
            lambda: kept.world.group("dp_shard"),
            lambda: kept.world.submesh("dp_shard"),
            lambda: kept.world.mesh_over("dp_shard", "tp"),
            session.fingerprint,
            lambda: session.prepare("dp=2"),
            lambda: session.switch("dp=2"),
            lambda: session.request("dp=2"),
        )
    ]


def take_ranks_in(rank, world_size):
    kept, told, texts = Kept(), [], []
    session = start("dp=2", keep={"kept": kept})
    session.on_switch(lambda report: told.append((session.fingerprint(), session.world.rank)))
    for step in session.steps(4):
        jobs.train_step(session.state, session.world, step)
        if step == 1:
            session.switch("dp=4")
            texts = refusals(session, kept)
            assert kept.world.rank == rank
            assert session.layout.world_size == 4
    jobs.train_step(session.state, session.world, 4)
    return texts, kept.sums, len(told), session.step, session.fingerprint()


# A reduction behind the switch met the first one of the next step on ranks that had joined, and
# Gloo ended both processes, or gave the sum of two different things.
def test_nothing_can_be_shared_behind_a_switch_that_took_ranks_in(pool):
    results = pool.run(take_ranks_in)

    for rank, (texts, sums, num_told, step, _) in enumerate(results):
        assert len(texts) == (10 if rank < 2 else 0)
        assert all("let `continue` follow it" in text for text in texts)
        assert sums == ([2, 4] if rank < 2 else [4])
        assert (num_told, step) == (1, 4)
    assert len({print_ for *_, print_ in results}) == 1


def take_nobody_in(rank, world_size):
    session = start("dp=4")
    seen = []
    for step in session.steps(2):
        jobs.train_step(session.state, session.world, step)
        if step == 0:
            session.switch("dp=2,tp=2")
            seen += [session.world.size("tp"), session.fingerprint() == session.fingerprint()]
    return seen


def test_where_no_rank_joined_the_body_goes_on(pool):
    assert pool.run(take_nobody_in) == [[2, True]] * 4


def leave_behind_a_switch(rank, world_size):
    session = start("dp=2")
    if rank >= 2:
        next(session.steps(9))
        return session.world.size("dp_shard")
    for step in session.steps(9):
        jobs.train_step(session.state, session.world, step)
        session.switch("dp=4")
        break
    return session.world.size("dp_shard")


# The body is over; what the script does there it does in the place of the next step.
def test_a_loop_that_was_left_behind_a_switch_gives_its_world_back(pool):
    assert pool.run(leave_behind_a_switch) == [4] * 4
