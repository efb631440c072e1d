"""Jobs in virtual time, over traces of a few moments whose outcome is worked out by hand."""

from __future__ import annotations

import importlib
import math
import sys

import pytest

from checkout import ROOT


def modules(*names):
    folders = [str(ROOT / "examples"), str(ROOT / "benchmarks")]
    sys.path[:0] = folders
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        del sys.path[: len(folders)]


course, virtual, replay, traces, trial, records = modules(
    "elastic_course",
    "elastic_virtual",
    "elastic_replay",
    "elastic_traces",
    "elastic_trial",
    "elastic.records",
)
Instant, Piece = traces.Instant, course.Piece
COSTS = virtual.Costs(
    join=1,
    leave=2,
    kill=3,
    preparing=0,
    slowdown=1,
    start=10,
    restart=20,
    restart_after_kill=15,
    save=5,
)


def task(most, each=1, step=1.0, **options):
    """Of replicas of so many nodes; the largest layout first."""
    return virtual.Task(replay.layouts_of(most, each, each), each, step, **options)


def kinds(done):
    return [(piece.kind, piece.begin, piece.end, piece.used) for piece in done.pieces]


# The step under way is all that a death may cost, and the others do it again.
def test_a_death_stops_dynatrain_and_loses_the_step_under_way():
    trace = [Instant(0, ("a", "b", "c", "d")), Instant(10, removed=("b",))]

    done = replay.Dynatrain(task(4, step=12), COSTS).run(trace, 25)

    regained = 13 + 4 / 3  # a third of a step, at 4 seconds a step
    assert [piece[0] for piece in kinds(done)] == ["train", "stop", "again", "train"]
    assert [piece.end for piece in done.pieces] == pytest.approx([10, 13, regained, 25])
    assert done.downtimes == pytest.approx([3 + 4 / 3])
    assert done.lost == pytest.approx(1 / 3)
    assert done.done == pytest.approx(6)
    assert course.summary(done, 6).ettr == pytest.approx((10 + 25 - regained) / 25)
    assert course.summary(done, 6).gpu_hours_lost == pytest.approx(3 * (3 + 4 / 3) / 3600)


# What others pay for: the start of a process, while everybody waits for it.
def test_dynatrain_trains_while_a_new_node_starts():
    trace = [Instant(0, ("a", "b", "c")), Instant(10, ("d",))]

    done = replay.Dynatrain(task(4, step=12), COSTS).run(trace, 33)

    assert kinds(done) == [
        ("train", 0, 10, 3),
        ("train", 10, 20, 3),
        ("stop", 20, 21, 3),
        ("train", 21, 33, 4),
    ]
    assert done.done == pytest.approx(9)
    assert done.lost == 0
    assert course.summary(done, 9).gpu_hours_idle == pytest.approx(10 / 3600)


# A preparation that slows training down is no free one.
def test_a_slowed_preparation_counts_as_time_lost():
    trace = [Instant(0, ("a",)), Instant(10, ("b",))]
    slow = virtual.Costs(**{**vars(COSTS), "preparing": 6, "slowdown": 2})

    done = replay.Dynatrain(task(2), slow).run(trace, 40)

    assert done.downtimes == [1 + 3]


# A cloud's notice turns a death into a planned leave.
def test_with_notice_no_step_is_lost():
    trace = [Instant(0, ("a", "b")), Instant(10.5, removed=("b",))]

    done = replay.Dynatrain(task(2, step=2, notice=True), COSTS).run(trace, 20)

    assert done.downtimes == [2]
    assert done.lost == 0


# Ranks 0 and 2 of two replicas hold the same stage. Whoever forgot that would show a job that lives
# on without a part of its model.
@pytest.mark.parametrize(("gone", "downtime"), [(("a", "d"), 3), (("a", "c"), 15 + 20)])
def test_a_stage_whose_owners_all_go_is_loaded_from_the_checkpoint(gone, downtime):
    trace = [Instant(0, ("a", "b", "c", "d")), Instant(10, removed=gone)]

    done = replay.Dynatrain(task(4, each=2, step=4), COSTS).run(trace, 60)

    assert done.downtimes == pytest.approx([downtime])
    assert done.lost == (0 if downtime == 3 else 10)


# A node without a place has no part in the job.
@pytest.mark.parametrize("kind", ["Dynatrain", "Replicas"])
def test_a_spare_that_goes_costs_nothing(kind):
    trace = [Instant(0, ("a", "b", "c")), Instant(10, removed=("c",))]

    done = getattr(replay, kind)(task(3, each=2), COSTS).run(trace, 20)

    assert done.downtimes == []
    assert kinds(done) == [("train", 0, 10, 2), ("train", 10, 20, 2)]


# Too few nodes: nobody trains, and the state of those that left is gone.
def test_a_job_without_a_layout_stands_until_there_are_nodes():
    trace = [Instant(0, ("a", "b")), Instant(10, removed=("b",)), Instant(40, ("c",))]

    done = replay.Dynatrain(task(2, each=2, step=2), COSTS).run(trace, 80)

    assert done.downtimes[0] == pytest.approx(3 + (50 - 13))
    assert done.downtimes[1] == pytest.approx(15 + 10)
    assert done.done == pytest.approx(80 - 65)


# Two nodes do a step a second: 15 of them come after the checkpoint, and one node takes 30 seconds.
def test_a_restart_loses_what_came_after_the_checkpoint():
    trace = [Instant(0, ("a", "b")), Instant(50, removed=("a",))]

    done = replay.Restart(task(2, step=2), COSTS, every=30, patience=0).run(trace, 95)

    assert kinds(done) == [
        ("train", 0, 30, 2),
        ("save", 30, 35, 2),
        ("train", 35, 50, 2),
        ("stop", 50, 65, 2),
        ("again", 65, 95, 1),
    ]
    assert done.lost == 15
    assert done.downtimes == [45]
    assert course.seconds_to(done, 40) == 85  # it was there before, and did not last


# A restart for each new node would be a straw man; so would one that forgets those who wait.
@pytest.mark.parametrize(("lost_at", "stops"), [(None, [(70, 90)]), (40, [(40, 55)])])
def test_new_nodes_wait_for_the_next_restart(lost_at, stops):
    trace = [Instant(0, ("a", "b")), Instant(10, ("c",))]
    if lost_at:
        trace.append(Instant(lost_at, removed=("a",)))

    done = replay.Restart(task(3), COSTS, every=1000, patience=60).run(trace, 100)

    assert [(begin, end) for kind, begin, end, _ in kinds(done) if kind == "stop"] == stops
    assert done.pieces[-1].used == (2 if lost_at else 3)


# The contender is as good as it can be: no other patience would have done more.
def test_the_restarting_job_has_the_best_patience():
    trace = [Instant(0, ("a", "b"))]
    for number in range(10):
        trace += [Instant(100 + 400 * number, (f"n{number}",))]
        trace += [Instant(100 + 400 * number + 30, removed=(f"n{number}",))]

    best = replay.best_restart(trace, 5000, task(3), COSTS)

    every = replay.interval(COSTS.save, replay.between_losses(trace, 5000))
    done = [replay.Restart(task(3), COSTS, every, each) for each in replay.PATIENCES]
    assert best.course.done == max(job.run(trace, 5000).done for job in done)
    assert best.patience > 0
    assert best.every == every == pytest.approx(math.sqrt(2 * 5 * 500) - 5)


# b is there all the time; it has nobody to make a replica with until g comes and has started.
def test_a_loss_takes_the_whole_replica_out():
    trace = [Instant(0, tuple("abcdef")), Instant(10, removed=("a",)), Instant(20, ("g",))]

    done = replay.Replicas(task(6, each=2, step=6), COSTS).run(trace, 40)

    assert [(begin, end, used) for kind, begin, end, used in kinds(done) if kind == "train"] == [
        (0, 10, 6),
        (13, 20, 4),
        (20, 30, 4),
        (31, 40, 6),
    ]
    assert done.downtimes == [3, 1]
    assert course.summary(done, 1).gpu_hours_idle == pytest.approx((7 * 1 + 10 * 2) / 3600)


# Two that are lost at once may be of one replica, or of two.
@pytest.mark.parametrize(("gone", "used"), [(("a", "b"), 4), (("a", "c"), 2)])
def test_replicas_are_lost_as_nodes_are_spread_over_them(gone, used):
    trace = [Instant(0, tuple("abcdef")), Instant(10, removed=gone)]

    done = replay.Replicas(task(6, each=2), COSTS).run(trace, 20)

    assert done.pieces[-1].used == used


# A job that stands in one place for the first moments would have no goal to be held against.
def test_the_time_to_a_step_is_found_within_a_piece():
    done = course.Course([Piece(5, 15, "train", 1, 0, 20), Piece(15, 18, "stop", 1, 20, 20)])

    assert course.seconds_to(done, 10) == 5
    assert course.seconds_to(done, 20) == 10
    assert course.seconds_to(done, 21) == math.inf


# GPU-hours are those of whoever is there, who may come and go within a piece.
def test_pieces_are_cut_where_nodes_come_and_go():
    pieces = [Piece(0, 10, "train", 2, 0, 20), Piece(10, 12, "stop", 2, 20, 20)]

    cut = list(course.with_presence(pieces, [(0, 2), (4, 3), (10, 5)]))

    assert [(piece.begin, piece.end, piece.present) for piece in cut] == [
        (0, 4, 2),
        (4, 10, 3),
        (10, 12, 5),
    ]
    assert [(piece.done_before, piece.done) for piece in cut] == [(0, 8), (8, 20), (20, 20)]


# The same sums for jobs that were run: steps again and saves are told apart from new steps.
def test_steps_that_were_run_become_pieces():
    def step(number, epoch, begin):
        return records.Step(number, epoch, "dp=2", 0.0, begin, begin + 1)

    steps = [step(0, 1, 0), step(1, 1, 1), step(2, 1, 4), step(1, 2, 9), step(2, 2, 10)]
    steps.append(step(3, 2, 11))

    pieces = trial.pieces_of(steps, saves=[2.1], end=20)

    assert [(piece.kind, piece.begin, piece.end, piece.done) for piece in pieces] == [
        ("train", 0, 2, 2),
        ("save", 2, 4, 2),
        ("train", 4, 5, 3),
        ("stop", 5, 9, 3),
        ("again", 9, 11, 3),
        ("train", 11, 12, 4),
        ("stop", 12, 20, 4),
    ]
