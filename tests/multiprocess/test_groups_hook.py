"""A hook `groups=` that fails on one rank before the others are done with it."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from sessions import outcome, start


def fail_before_making_groups(rank, world_size):
    armed = [False]

    def groups(layout):
        if armed[0] and rank == 2:
            raise KeyError("no such group")
        return dist.new_group(list(range(world_size)))

    session = start(timeout_s=12, groups=groups)
    armed[0] = True
    kind, text = outcome(lambda: session.switch("dp=2,tp=2"))
    armed[0] = False
    return kind, text, session.switch("dp=2,tp=2").epoch, session.switch("dp=3").epoch


# The members of the group waited for the rank that had failed until torch's deadline, half an hour;
# and ranks that had counted another number of groups would wait for each other in the next one.
def test_hook_that_fails_before_its_groups_ends_by_the_deadline_on_all(pool):
    for kind, text, *epochs in pool.run(fail_before_making_groups):
        assert kind == "LayoutError"
        assert "no such group" in text
        assert epochs == [1, 2]


def make_groups_that_are_waited_in(rank, world_size, timeout_s):
    made = {}

    def groups(layout):
        own = dist.new_group([0, 1], timedelta(seconds=99))
        made[str(layout)] = dist.new_group([0, 1, 2]), own
        if rank < 2:  # groups that their members alone make move torch's count on these ranks
            dist.new_group([0, 1], use_local_synchronization=True)

    session = start(groups=groups, timeout_s=timeout_s)
    deadlines = [
        group._get_backend(torch.device("cpu")).options._timeout
        for group in made["dp=4"]
        if isinstance(group, dist.ProcessGroup)
    ]
    return deadlines, session.switch("dp=3").epoch


# The deadline is for their making: a checkpoint may keep a rank longer than that, in training.
# Half of 40.001 s is no whole number of milliseconds, in which torch keeps it.
@pytest.mark.parametrize("timeout_s", [40, 40.001])
def test_groups_of_the_hook_have_the_deadlines_that_they_would_have_had(pool, timeout_s):
    usual, own = timedelta(minutes=30), timedelta(seconds=99)
    results = pool.run(make_groups_that_are_waited_in, timeout_s)

    assert [deadlines for deadlines, _ in results] == [[usual, own]] * 2 + [[usual], []]
    assert [epoch for _, epoch in results] == [1] * 4
