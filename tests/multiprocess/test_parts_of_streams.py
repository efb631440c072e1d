"""A switch that frees its source and fails in the middle: what is left is all of a state."""

from __future__ import annotations

import re
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch

from dynatrain import TransportError, _native
from dynatrain.elastic.cadence import Cadence
from dynatrain.elastic.copies import bytes_of
from dynatrain.elastic.rescue import RescueOfParts
from dynatrain.elastic.rounds import Means
from dynatrain.elastic.snapshots import Snapshots
from dynatrain.switch import moved, streams
from multiprocess.test_streamed_switches import start_wide
from sessions import refused

STEP = 5
_STAGES = re.compile(r"(\d+) have landed here and (\d+) on all ranks")


class AlwaysAsked(Snapshots):
    """As those of a member whose job makes snapshots, of which one is whole."""

    are_asked_for = True


class RunsOut:
    """A storage of which torch gives no memory when so many others were taken before."""

    def __init__(self, storage, others, taken):
        self.storage, self.others, self.taken = storage, others, taken

    def __getattr__(self, name):
        return getattr(self.storage, name)

    def resize_(self, size):
        if size:
            self.taken.append(self)
            if len(self.taken) > self.others:
                raise torch.OutOfMemoryError("no memory here")
        return self.storage.resize_(size)


@contextmanager
def running_out(others):
    """Storages that are streamed into give no memory here once so many were taken."""
    sized, taken = streams._sized, []

    def wrapped(storages, numbers):
        each, sizes = sized(storages, numbers)
        return [RunsOut(storage, others, taken) for storage in each], sizes

    streams._sized = wrapped
    try:
        yield
    finally:
        streams._sized = sized


def fail_on_the_way(rank, world_size, layouts, others, kind=AlwaysAsked):
    """What each rank keeps of a switch that has failed on rank 1, and what there was before."""
    source, target = layouts
    session = start_wide(source, mode="stream", staging_budget_bytes=1 << 20, verify=())
    part, present = session._part, session._part.present
    whole = {
        f"{name}|param": getattr(param, "full_tensor", lambda param=param: param)().detach().clone()
        for name, param in (present.state.model.named_parameters() if present.state else ())
    }
    means = Means(part.engine.device, 1, timedelta(seconds=20), lambda: [], None, None)
    snapshots = kind(Cadence(None), part.adapter, present, means)
    rescue = RescueOfParts(snapshots, SimpleNamespace(completed=STEP), 240.0)
    part.vote = replace(part.vote, rescue=rescue)
    with running_out(others) if rank == 1 else nullcontext():
        text = refused(lambda: session.switch(target), TransportError)
    num_landed, num_freed = map(int, _STAGES.search(text).groups())
    return whole, pieces_of(snapshots._slots.spare), (num_landed, num_freed)


def pieces_of(slot):
    """By tensor, the boxes that were kept and what is in them."""
    found, begin = {}, 0
    for state in (slot.own, slot.other):
        if state is None:
            continue
        for name, _, dtype, _, pieces in _native.packed_boxes(state.blob):
            assert dtype == "float32"
            for low, high, offset in pieces:
                shape = [end - start for start, end in zip(low, high, strict=True)]
                at = begin + offset
                size = 4 * torch.Size(shape).numel()
                values = bytes_of(slot.run)[at : at + size].clone().view(torch.float32)
                found.setdefault(name, []).append((low, high, values.view(shape)))
        begin += state.size_bytes
    return found


def put_together(answers):
    """All tensors as far as some rank has kept them; how many elements of them none has."""
    whole = next(each for each, _, _ in answers if each)
    missing = 0
    for name, expected in whole.items():
        seen = torch.full_like(expected, float("nan"))
        for _, pieces, _ in answers:
            for low, high, values in pieces.get(name, ()):
                seen[tuple(slice(*ends) for ends in zip(low, high, strict=True))] = values
        there = ~seen.isnan()
        assert torch.equal(seen[there], expected[there]), name
        missing += int((~there).sum())
    return missing


# A hole would be lost with the source, and a part that had not landed would be another's bits.
@pytest.mark.parametrize("others", [0, 5, 14])
@pytest.mark.parametrize("layouts", [("dp=4", "dp=2,tp=2"), ("dp=2", "dp=4"), ("dp=4", "dp=2")])
def test_what_all_ranks_keep_of_a_failed_stream_is_the_whole_state(pool, layouts, others):
    answers = pool.run(fail_on_the_way, layouts, others)

    assert put_together(answers) == 0
    stages = [of_rank for _, _, of_rank in answers]
    if others == 14 and layouts == ("dp=4", "dp=2,tp=2"):  # else nothing may be freed yet
        assert all(num_landed and num_freed for num_landed, num_freed in stages), stages


def arrive_wrong(rank, world_size):
    """What a rank keeps where one has counted another state than was sent."""
    session = start_wide("dp=4", mode="stream", verify=("fingerprint",))
    part = session._part
    means = Means(part.engine.device, 1, timedelta(seconds=20), lambda: [], None, None)
    snapshots = Snapshots(Cadence(None), part.adapter, part.present, means)
    rescue = RescueOfParts(snapshots, SimpleNamespace(completed=STEP), 240.0)
    part.vote = replace(part.vote, rescue=rescue)
    taken = moved._taken

    def wrong(*given):
        elements, values = taken(*given)
        return elements + (rank == 1), values

    moved._taken = wrong
    try:
        text = refused(lambda: session.switch("dp=2,tp=2"), TransportError)
    finally:
        moved._taken = taken
    return text, snapshots.versions


# It would be the newest version that all go back to, before every snapshot.
def test_what_has_arrived_wrong_is_not_kept(pool):
    for text, versions in pool.run(arrive_wrong):
        assert "is not the state that was to be moved" in text
        assert not versions


# The coordinator does not ask who has told of no copies: they would be of steps that are undone
# when they are found again.
def test_who_is_left_out_and_would_not_be_asked_keeps_nothing(pool):
    answers = pool.run(fail_on_the_way, ("dp=4", "dp=2"), 5, Snapshots)

    assert [bool(kept) for _, kept, _ in answers] == [True, True, False, False]
