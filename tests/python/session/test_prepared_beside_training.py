"""A target that is prepared in a thread while training goes on, with ranks as threads.

A rank has two threads here: one prepares, the other one trains and does pieces of the preparation
between its steps. What is outside of the ranks, and the framework, are fakes.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
import torch

from boundaries import outcome_of
from dynatrain.elastic.slices import Slices
from dynatrain.generation.generation import Generation
from dynatrain.generation.world_groups import GroupWanted
from dynatrain.layout import Layout
from dynatrain.switch import moved
from dynatrain.switch.preparations import Wanted
from ranks_in_threads import SIGNALS, STUCK_S, Outside, run_ranks
from toy_sessions import NUM_RANKS, SOURCE, TARGET, holds_its_part, start

VICTIM = 2


@pytest.fixture
def outside(monkeypatch):
    """What ranks that are threads talk over."""
    monkeypatch.setattr(moved, "signals_held_off", SIGNALS.held_off)
    return Outside(NUM_RANKS)


class Beside:
    """A rank that trains while a thread of it prepares the target over another generation."""

    def __init__(self, outside, rank, check=lambda: None):
        self.part = start(outside, rank)
        self.check = check
        self.num_slices = 0
        self._outside, self._rank = outside, rank

    def generation(self, name):
        members = replace(self.part.generation.members, name=name)
        options, host = self.part.generation.options, torch.device("cpu")
        made = Generation(members, options, host, meets_in_store=False)
        maker = made.maker
        maker._c10d = lambda kind: self._outside.transport(
            self._rank, f"{maker._connection}/{kind}"
        )
        made.connect(name)
        return made

    def prepare(self, generation):
        """What the thread has prepared; steps are done meanwhile, and raises what it raises."""
        asked = threading.Event()
        slices = Slices(asked.set, timedelta(seconds=STUCK_S))
        seats = self.part.present.seats
        wanted = Wanted(Layout.parse(TARGET), seats, self.part.present.epoch, check=self.check)
        with ThreadPoolExecutor(1) as threads:
            prepared = threads.submit(self.part.prepare_ahead, generation, wanted, slices.run)
            while not prepared.done():
                if asked.wait(0.01):
                    asked.clear()
                    self.num_slices += 1
                slices.serve()
        return prepared.result()

    def switch(self, generation, standing):
        self.part.regroup(generation)
        self.part.targets.adopt(standing)
        return self.part.switch(TARGET, None, ())


def test_what_was_prepared_beside_training_is_what_the_switch_takes(outside):
    def work(rank):
        beside = Beside(outside, rank)
        standing = beside.prepare(generation := beside.generation("second"))
        assert str(beside.part.present.layout) == SOURCE
        assert holds_its_part(beside.part)
        report = beside.switch(generation, standing)
        assert holds_its_part(beside.part)
        return report.prepared, beside.num_slices, report.boundary_seconds > 0

    # The check, build, slots and memory; toys have no meshes.
    assert run_ranks(outside, work) == [(True, 4, True)] * NUM_RANKS


# As the first step of an optimizer does, which makes slots. The way that was planned leads from
# memory that is not the state's any more.
def test_a_state_that_changes_behind_its_preparation_is_switched_all_the_same(outside):
    def work(rank):
        beside = Beside(outside, rank)
        standing = beside.prepare(generation := beside.generation("second"))
        outside.gathered(rank, None)
        if rank == VICTIM:
            state = beside.part.present.state
            state.arrays = {name: array.copy() for name, array in state.arrays.items()}
        report = beside.switch(generation, standing)
        assert holds_its_part(beside.part)
        return report.prepared, report.target

    assert run_ranks(outside, work) == [(False, TARGET)] * NUM_RANKS


def build_that_fails_once(part, error):
    """Has the next build of a rank raise."""
    build, failures = part.targets._build, [error]

    def fails(world):
        if failures:
            raise failures.pop()
        return build(world)

    part.targets._build = fails


# Nobody has stopped for it: it must leave nothing that the next attempt, or training, would meet.
def test_a_build_that_raises_between_two_steps_fails_the_preparation_alone(outside):
    def work(rank):
        beside = Beside(outside, rank)
        if rank == VICTIM:
            build_that_fails_once(beside.part, ValueError("no such layer"))
        first = beside.generation("second")
        failed = outcome_of(lambda: beside.prepare(first))
        assert str(beside.part.present.layout) == SOURCE
        assert holds_its_part(beside.part)
        first.close(in_store=False)
        standing = beside.prepare(generation := beside.generation("third"))
        report = beside.switch(generation, standing)
        return type(failed).__name__, "no such layer" in str(failed), report.prepared

    assert run_ranks(outside, work) == [("LayoutError", True, True)] * NUM_RANKS


# Some ranks have begun to step when others refuse: all give it up before anything is made.
def test_a_rank_that_cannot_go_there_refuses_for_all(outside):
    def work(rank):
        def refuse():
            raise ValueError("gradients are there")

        beside = Beside(outside, rank, refuse if rank == VICTIM else lambda: None)
        failed = outcome_of(lambda: beside.prepare(beside.generation("second")))
        assert holds_its_part(beside.part)
        return "gradients are there" in str(failed), beside.num_slices

    assert run_ranks(outside, work) == [(True, 1)] * NUM_RANKS


# The training thread would wait in it for members that train, and these for it in their step.
def test_a_group_that_build_asks_for_is_made_in_the_thread_that_prepares(outside):
    def work(rank):
        beside, made_in = Beside(outside, rank), []
        wanted = GroupWanted(lambda: made_in.append(threading.current_thread()))
        build_that_fails_once(beside.part, wanted)
        standing = beside.prepare(generation := beside.generation("second"))
        assert made_in
        assert made_in[0] is not threading.current_thread()
        return beside.switch(generation, standing).prepared, beside.num_slices

    assert run_ranks(outside, work) == [(True, 5)] * NUM_RANKS


# Its groups close; the others hear of it in their next exchange, whichever that is.
@pytest.mark.parametrize("num_slices", [0, 1, 3])
def test_the_others_train_on_when_one_dies_while_all_prepare(outside, num_slices):
    def work(rank):
        beside = Beside(outside, rank)
        generation = beside.generation("second")
        outside.gathered(rank, None)
        if rank == VICTIM:
            dying = iter(range(num_slices))

            def serve_some(work):
                if next(dying, None) is None:
                    outside.kill(VICTIM)
                return work()

            seats = beside.part.present.seats
            beside.part.prepare_ahead(
                generation, Wanted(Layout.parse(TARGET), seats, 0), serve_some
            )
        failed = outcome_of(lambda: beside.prepare(generation))
        assert str(beside.part.present.layout) == SOURCE
        assert holds_its_part(beside.part)
        return type(failed).__name__

    expected = ["TransportError"] * NUM_RANKS
    expected[VICTIM] = None
    assert run_ranks(outside, work) == expected


def test_a_session_that_has_prepared_in_vain_switches_as_ever(outside):
    def work(rank):
        beside = Beside(outside, rank)
        beside.prepare(generation := beside.generation("second"))
        generation.close(in_store=False)
        report = beside.part.switch(TARGET, None, ())
        assert holds_its_part(beside.part)
        return report.prepared

    assert run_ranks(outside, work) == [False] * NUM_RANKS
