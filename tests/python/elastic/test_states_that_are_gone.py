"""A shard that nobody holds any more: the members that are left say so, and end."""

from __future__ import annotations

import logging
from datetime import timedelta
from types import SimpleNamespace
from typing import ClassVar

import pytest

from dynatrain import LayoutError, TransportError, _native
from dynatrain.elastic.asked import Asked
from dynatrain.elastic.attempts import UncoveredError, is_hole
from dynatrain.elastic.driver import Driver
from dynatrain.elastic.ends import STATE_GONE
from dynatrain.elastic.part import Part
from dynatrain.elastic.ready import Ready, uncovered
from dynatrain.elastic.standstill import Standstill
from dynatrain.elastic.wishes import Wishes
from dynatrain.generation.engine import Side
from dynatrain.layout import Layout
from dynatrain.switch.readings import _check_held
from paper_job import HEARTBEAT_MS, TIMEOUT_S, PaperJob

HOLE = "the state of 9 steps is not whole: no rank holds [11:22] of 'down.bias|exp_avg'"
GIVE_UP_MS = int(5 * TIMEOUT_S * 1000)


def lost_one(monkeypatch, **given):
    """Three members without replicas, of which one was killed; the two that are left."""
    job = PaperJob(monkeypatch, "dp=3", "dp=2", "dp=1")
    *left, lost = job.add(3, **given)
    for each in left:
        each.hole = HOLE
    job.kill(lost)
    job.go_on(2 * HEARTBEAT_MS)
    return job, left


# They stood for ever, and only who asked for the status learned why.
def test_without_checkpoints_all_end_and_name_the_region(monkeypatch):
    _, left = lost_one(monkeypatch)

    for each in left:
        ((_, reason, why),) = each.asked("end")
        assert reason == STATE_GONE
        assert HOLE in why


def test_with_checkpoints_a_folder_that_comes_late_is_waited_for(monkeypatch):
    job, left = lost_one(monkeypatch, has_checkpoints=True)
    job.go_on(GIVE_UP_MS - 10 * HEARTBEAT_MS)
    assert not any(each.asked("end") for each in left)
    job.go_on(20 * HEARTBEAT_MS)

    assert all(each.asked("end") for each in left)


def test_who_comes_and_helps_ends_the_wait(monkeypatch):
    job, left = lost_one(monkeypatch, has_checkpoints=True)
    for each in left:
        each.hole = ""  # the folder is there now
    job.add()
    job.go_on(2 * GIVE_UP_MS)

    assert not any(each.asked("end") for each in left)
    assert job.world == "dp=3"


# All processes are started again, without a folder: they waited for a place in silence.
def test_who_comes_to_a_job_whose_state_is_gone_is_told(monkeypatch):
    job, _ = lost_one(monkeypatch)
    (late,) = job.add()
    job.go_on(3 * HEARTBEAT_MS)

    ((_, reason, why),) = late.asked("end")
    assert reason == STATE_GONE
    assert "nobody finds a checkpoint" in why


# It was asked into one world after another, each was refused, and nobody else could come in.
def test_who_was_given_other_arguments_is_refused_and_keeps_nobody_out(monkeypatch):
    job = PaperJob(monkeypatch, "dp=2", "dp=1")
    job.add(1, settings="timeout_s 60\nsnapshot_every 20")
    (odd,) = job.add(1, settings="timeout_s 60\nsnapshot_every 10")
    job.go_on(2 * HEARTBEAT_MS)

    ((_, reason, why),) = odd.asked("end")
    assert reason == "refused"
    assert '"snapshot_every 10", where they have "snapshot_every 20"' in why
    job.add(1, settings="timeout_s 60\nsnapshot_every 20")
    job.go_on(20 * HEARTBEAT_MS)
    assert job.world == "dp=2"


def test_a_world_that_lacks_members_is_waited_for(monkeypatch):
    job = PaperJob(monkeypatch, "dp=2")
    first, second = job.add(2)
    job.kill(second)
    job.go_on(2 * GIVE_UP_MS)

    assert not first.asked("end")
    assert first.asked("stand")[-1][1:] == (
        "1 members are available, the smallest layout needs 2",
        False,
    )


# "A member is lost" does not tell which machine to look at.
def test_a_stop_names_who_is_lost_and_where(monkeypatch):
    _, left = lost_one(monkeypatch)

    assert left[0].asked("stop")[0][2] == (
        "member 3 (rank 2 of dp=3, host-3) was lost: its connection was closed"
    )


# ---- what a member's process does of it --------------------------------------------------------


class Idle:
    """A session that does nothing."""

    completed, previous = 9, ()

    def vote_by(self, vote):
        """Nobody votes."""


class Ending:
    """A part that ends the member at its next boundary."""

    def at_boundary(self, version):
        return Asked("end", why=(STATE_GONE, HOLE))

    def end(self):
        """There is no thread."""


# The loop ended as if the job were done, and the process with status 0.
def test_the_loop_of_the_script_ends_with_an_error_that_says_what_to_do():
    driver = Driver(Idle(), None, timedelta(seconds=5), Wishes(lambda question: {}))
    driver.part = Ending()

    with pytest.raises(TransportError) as raised:
        driver.may_train()

    assert "no rank holds [11:22]" in str(raised.value)
    assert "start the job again from a checkpoint" in str(raised.value)
    assert "snapshot_every" in str(raised.value)
    assert "checkpoint_dir" in str(raised.value)
    assert driver.ended[0] == STATE_GONE


def test_why_a_member_stands_still_is_told_at_once_and_again_at_times(caplog):
    caplog.set_level(logging.INFO)
    clock = SimpleNamespace(now=0.0)
    tells = Standstill(60.0, lambda: clock.now)

    def lines_at(now, why, *, is_gone=False, trains_later=False):
        clock.now = now
        caplog.clear()
        tells.told(why, is_gone=is_gone, trains_later=trains_later)
        return [(each.levelname, each.getMessage()) for each in caplog.records]

    ((level, said),) = lines_at(0.0, HOLE, is_gone=True)
    assert level == "WARNING"
    assert HOLE in said
    assert "a checkpoint" in said
    assert lines_at(59.0, HOLE, is_gone=True) == []
    assert len(lines_at(60.0, HOLE, is_gone=True)) == 1
    ((level, said),) = lines_at(61.0, "2 members lack")
    assert level == "WARNING"
    assert "goes on by itself" in said
    assert lines_at(62.0, "a place lacks", trains_later=True)[0][0] == "INFO"


# ---- a version that is not whole ---------------------------------------------------------------


def table_of(*names):
    table = _native.StateTable()
    for name in names:
        table.add_whole(name, [4], "float32", 4, 1 << 20, [1])
    return table


# A weight of one row lies whole on one rank: the map of the others does not know of it. That was
# taken for a fault of the target, and those who were left stood for ever.
def test_a_tensor_that_is_gone_as_a_whole_is_a_hole():
    held = _native.ShardMap.merge([(table_of("a|param").encode_as([0]), [0])], 1)

    with pytest.raises(LayoutError, match=r"'out\.weight\|param'") as refused:
        _check_held(Side(None, table_of("a|param", "out.weight|param")), held)

    assert is_hole(refused.value)
    _check_held(Side(None, table_of("a|param")), held)


def ready(*, taken=True):
    facts = {"source": None, "target": Layout(dp=2), "epoch": 0, "world": 2, "version": 9}
    made = Ready(generation=None, slices=None, **facts)
    if taken:
        made.taken.set()
    return made


NO_OWNER = LayoutError(
    "layout: no rank holds [11:22] of 'down.bias' (float32 [32])\n  1 boxes of it have no owner\n"
    "  nothing was moved\n  let every element be published by the rank that holds it"
)


# Each death that snapshots cover looked like the end of the job.
def test_what_a_snapshot_has_is_no_alarm():
    found = uncovered(ready(), NO_OWNER, "rank 2 (member 3, host-3)", [8, 4])

    assert str(found) == (
        "the state of 9 steps is not whole, as rank 2 (member 3, host-3) is lost: layout: no rank "
        "holds [11:22] of 'down.bias' (float32 [32]) (1 boxes of it have no owner)"
    )
    assert found.then == "what is kept of step 8 is asked next"
    assert not found.may_be_the_target


@pytest.mark.parametrize("versions", [[], [9], [10]])
def test_without_an_earlier_version_nothing_is_asked_next(versions):
    assert uncovered(ready(), NO_OWNER, "", versions).then == ""


# A layout that the model cannot take is no state that is gone: whoever comes allows another one.
def test_what_the_target_may_be_at_fault_for_is_told_as_that():
    misfit = LayoutError("tp=3 cuts no head")

    assert uncovered(ready(), misfit, "", []).may_be_the_target
    assert not uncovered(ready(taken=False), misfit, "", []).may_be_the_target


class Machine:
    def prepare_broke(self, now, attempt, why, *what):
        self.told = why, what
        return []


@pytest.mark.parametrize(
    ("then", "level"), [("what is kept of step 8 is asked next", "INFO"), ("", "WARNING")]
)
def test_only_what_nothing_covers_is_a_warning(caplog, then, level):
    caplog.set_level(logging.INFO)

    class Tasks(Idle):
        begins: ClassVar = {}

        def prepare(self, attempt):
            raise UncoveredError(HOLE, then=then)

    part = object.__new__(Part)
    part._tasks, part._machine = Tasks(), Machine()
    part._feed = lambda event: event(0)
    part._prepared(2)

    assert [each.levelname for each in caplog.records] == [level]
    assert HOLE in caplog.text
    assert "UncoveredError" not in caplog.text
    assert part._machine.told == (HOLE, (True, False))


def test_a_hole_is_known_by_what_the_library_says():
    assert is_hole(NO_OWNER)
    assert not is_hole(LayoutError("tp=3 cuts no head"))
