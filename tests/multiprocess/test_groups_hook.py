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


def fail_beside_ranks_that_wait(rank, world_size, path, error):
    store = dist.FileStore(path, world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    armed = [False]

    def groups(layout):
        if armed[0] and rank == 2:
            raise error
        try:
            dist.new_group(list(range(world_size)))
        except RuntimeError as waited:
            if rank == 1:  # as a framework that says what it was about to do
                raise ValueError("no mesh for the experts") from waited
            raise

    session = start(timeout_s=6, groups=groups)
    armed[0] = True
    kind, text = outcome(lambda: session.switch("dp=2,tp=2"))
    armed[0] = False
    return kind, text, session.switch("dp=2,tp=2").epoch


# Over a FileStore, and where a connection breaks, the errors of ranks that wait have no class of
# their own: the lowest rank then said that it had waited, and kept the reason to itself.
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KeyError("no such group"), "LayoutError"),
        (RuntimeError("no such group"), "LayoutError"),
        (MemoryError("no such group"), "BudgetError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_error_of_the_hook_comes_before_those_of_ranks_that_waited(pool, tmp_path, error, kind):
    results = pool.run(
        fail_beside_ranks_that_wait, str(tmp_path / "store"), error, init_group=False
    )

    for got, text, epoch in results:
        assert (got, epoch) == (kind, 1)
        assert "no such group" in text
        assert "timeout" not in text
        assert "experts" not in text


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
