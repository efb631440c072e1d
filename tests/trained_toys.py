"""Ranks that are threads, and train toys with snapshots and checkpoints beside."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from functools import partial

import numpy as np
import torch

from dynatrain import Layout
from dynatrain.elastic.cadence import Cadence
from dynatrain.elastic.rounds import Begins, Means
from dynatrain.elastic.saving import Together
from dynatrain.elastic.snapshots import Snapshots
from dynatrain.generation.tree import Tree
from dynatrain.switch.present import Present
from ranks_in_threads import STUCK_S, Outside, ThreadMembers
from toy_state import Place, Toy, ToyAdapter

WAIT = timedelta(seconds=STUCK_S)


def members_of(outside, rank, _=None):
    return ThreadMembers("world", rank, outside.members, outside.store, outside)


def fill(state):
    for number, (name, array) in enumerate(sorted(state.arrays.items())):
        begin = state.boxes()[name][0]
        array[...] = number + np.arange(array.size).reshape(array.shape) + 1000 * sum(begin)
        if name == "bias|param":
            array[...] = np.arange(array.size)


class Job(Outside):
    """Ranks that go step by step."""

    def together(self, rank, value=None):
        """What all ranks bring; again and again."""
        found = self.gathered(rank, value)
        self.gathered(rank, value)  # none of them brings another value before all have read
        return found


class Trains:
    """One rank that trains a toy and makes snapshots."""

    def __init__(self, outside, rank, every=4, layout="dp=4", checkpoints=(None, None)):
        self.outside, self.rank = outside, rank
        self.layout = Layout.parse(layout)
        adapter = ToyAdapter(fill)
        place = Place(self.layout, rank, epoch=1)
        self.state = adapter.build(lambda: Toy(place))
        self.present = Present(0, None, place, self.state, 1)
        self.epochs = []  #: of worlds of which a snapshot is whole
        self.told, self.changed = [], threading.Condition()
        means = Means(torch.device("cpu"), 1, WAIT, lambda: [], self.note, self.copied)
        self.snapshots = Snapshots(Cadence(every, *checkpoints), adapter, self.present, means)
        self.snapshots._member, self.snapshots._begins = f"member {rank}", Begins(1, 0, self.layout)
        self.snapshots._begin(partial(members_of, outside, rank))

    def note(self, kind, text):
        with self.changed:
            self.told.append((kind, text))
            self.changed.notify_all()

    def copied(self, epoch, is_on_disk):
        self.epochs.append((epoch, is_on_disk))

    def step(self):
        self.state.steps += 1
        for array in self.state.arrays.values():
            array += 1
        self.snapshots.at_boundary(self.state.steps)

    def to(self, version):
        while self.state.steps < version:
            self.step()
            self.outside.together(self.rank, None)

    def until_whole(self, number):
        """Trains until so many snapshots are whole."""
        while True:
            self.step()
            with self.changed:
                self.changed.wait_for(lambda: len(self.told) >= number, 0.02)
            if min(self.outside.together(self.rank, len(self.told))) >= number:
                return

    def joins(self, version, *, trains):
        """Another world begins, of as many ranks; this one has a place there or not."""
        members = members_of(self.outside, self.rank)
        num_ranks = members.num_ranks
        if not trains:  # those that do come first
            members = replace(members, each=members.each * 2, rank=num_ranks + self.rank)
        begins = Begins(2, version, Layout(dp=num_ranks))
        self.snapshots.go_on(begins, members, lambda: self.outside.store)

    def held(self, version, holders):
        self.snapshots.halt()
        return self.snapshots.held(version, holders)[0]


def together_in(folder, members, at):
    """What members write a checkpoint with, without a world's rounds; ``at`` is how far this is."""
    changed = threading.Condition()

    def wait(is_so, seconds):
        with changed:
            changed.wait_for(is_so, seconds)

    def wake():
        with changed:
            changed.notify_all()

    exchange = Tree(members, WAIT, "saving").exchange
    return Together(folder, members.rank, "1.1", exchange, wait, wake, lambda: at, STUCK_S)
