"""Kept objects live through switches: ranks that join catch up, and all ranks end alike."""

from __future__ import annotations

import logging
import random

import torch

import training_jobs as jobs
from dynatrain import LayoutError
from held_values import Notes
from sessions import refused, start


class Average:
    """A running average of the head's bias, whole on every rank: a kept object."""

    def __init__(self):
        self.values = torch.zeros(7)
        self.worlds = []

    def update(self, state):
        self.values.lerp_(jobs.whole(state.model.head.bias), 0.25)

    def on_world(self, world):
        self.worlds.append(None if world is None else (str(world.layout), world.rank))

    def state_dict(self):
        return {"values": self.values}

    def load_state_dict(self, state_dict):
        self.values = state_dict["values"].clone()


def keep_an_average(rank, world_size):
    average, plain_object = Average(), object()
    keep = {"average": average, "object": plain_object}
    session = start("dp=2", keep=keep)
    for step in session.steps(3):
        jobs.train_step(session.state, session.world, step)
        average.update(session.state)
        if step < 2:
            session.switch(["dp=4", "dp=3"][step])
    same = session.keep["average"] is average and session.keep["object"] is plain_object
    return average.values, average.worlds, same


# An average that restarts on the ranks that join would differ between replicas from then on.
def test_kept_object_lives_on_and_ranks_that_join_catch_up(pool):
    results = pool.run(keep_an_average)

    for rank, (values, worlds, same) in enumerate(results):
        assert same
        assert worlds == [
            (layout, rank) if rank < size else None
            for layout, size in (("dp=2", 2), ("dp=4", 4), ("dp=3", 3))
        ]
        if rank < 3:
            assert torch.equal(values, results[0][0])
    assert results[0][0].any()


class Kept:
    """Raises where it is told to."""

    def __init__(self, rank):
        self.rank, self.moment = rank, None

    def maybe(self, moment):
        if self.moment == moment and torch.distributed.get_rank() == self.rank:
            raise ValueError(f"kept object at {moment}")

    def state_dict(self):
        self.maybe("reading")
        return {}

    def load_state_dict(self, state_dict):
        pass

    def on_world(self, world):
        self.maybe("committed")


def fail_to_read_a_kept_object(rank, world_size):
    kept = Kept(1)
    session = start("dp=2,tp=2", keep={"kept": kept})
    session.switch("dp=3")
    kept.moment = "reading"
    if not session.active:  # the loop of an idle rank attends both calls
        return list(session.steps(1))
    text = refused(lambda: session.switch("dp=4"), (LayoutError, ValueError))
    kept.moment = None
    report = session.switch("dp=4")
    return "kept object at reading" in text, str(session.layout), report.bytes_moved > 0


# Joining ranks need what kept objects say; one that cannot must not leave the others waiting.
def test_kept_object_that_cannot_be_read_is_refused_on_all_at_once(pool):
    results = pool.run(fail_to_read_a_kept_object)

    assert results[:3] == [(True, "dp=4", True)] * 3


def heard():
    """What the session warns of from now on, in this process."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(f"{record.levelname} {record.getMessage()}")
    logging.getLogger("dynatrain.session").addHandler(handler)
    return lines


def fail_after_the_vote(rank, world_size):
    kept, told = Kept(1), []
    session = start("dp=4", keep={"kept": kept})
    session.on_switch(lambda report: told.append((report.bytes_moved, report.not_continuous)))
    random.seed(5)
    kept.moment = "committed"
    raised, log = None, heard()
    try:
        session.switch("dp=2,tp=2")
    except ValueError as error:
        raised = str(error)
    return (raised, log), str(session.layout), told, random.random(), session.fingerprint()


# The switch is done then: the rank must be as the others are, but for what its own code did not do.
def test_kept_object_that_raises_after_the_vote_leaves_all_ranks_alike(pool):
    results = pool.run(fail_after_the_vote)

    said = [result[0] for result in results]
    assert [raised for raised, _ in said] == [None, "kept object at committed", None, None]
    for rank, (_, (line,)) in enumerate(said):  # the others heard nothing, and waited for it
        assert "rank 1: the" in line
        assert line.startswith("ERROR" if rank == 1 else "WARNING")
        assert "catch" in line
    assert len({repr(result[1:]) for result in results}) == 1
    assert results[0][1] == "dp=2,tp=2"
    ((moved, reasons),) = results[0][2]
    assert moved > 0
    assert reasons == ["rank 1: the kept object 'kept' raised ValueError: kept object at committed"]


def keep_a_counter(rank, world_size, per_rank):
    counter = Notes(n=0)
    if per_rank:
        counter.per_rank = True
    session = start("dp=4", keep={"counter": counter})
    for step in session.steps(6):
        counter["n"] += 1
        if step in (1, 3):
            session.switch(["dp=2", "dp=4"][step == 3])
    return counter["n"]


# It stood still while its rank idled and went on from there: 6 steps of the job, 4 of its own.
def test_kept_object_without_on_world_catches_up_on_a_rank_that_idled(pool):
    assert pool.run(keep_a_counter, False) == [6, 6, 6, 6]
    assert pool.run(keep_a_counter, True) == [6, 6, 4, 4]


def keep_what_differs(rank, world_size):
    session = start("dp=2", keep={"log": Notes(at=rank)})
    texts = []
    for step in session.steps(2):
        if step == 0:
            try:
                session.switch("dp=4")
            except LayoutError as error:
                texts.append(str(error))
    return texts


# Rank 0's word would be taken on the ranks that join.
def test_kept_object_that_differs_between_ranks_is_refused_when_ranks_join(pool):
    results = pool.run(keep_what_differs)

    for texts in results[:2]:
        assert "keep.log" in texts[0]
        assert "ranks 0 and 1" in texts[0]
        assert "per_rank = True" in texts[0]
