"""A switch that frees its source and fails in the middle: what is left is all of a state."""

from __future__ import annotations

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
from dynatrain.switch import streams
from multiprocess.test_streamed_switches import start_wide
from sessions import refused

STEP = 5


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


def fail_on_the_way(rank, world_size, layouts, others):
    """What each rank keeps of a switch that has failed on rank 1, and what there was before."""
    source, target = layouts
    session = start_wide(source, mode="stream", staging_budget_bytes=1 << 20, verify=())
    part, present = session._part, session._part.present
    whole = {
        f"{name}|param": getattr(param, "full_tensor", lambda param=param: param)().detach().clone()
        for name, param in (present.state.model.named_parameters() if present.state else ())
    }
    means = Means(part.engine.device, 1, timedelta(seconds=20), lambda: [], None, None)
    snapshots = Snapshots(Cadence(None), part.adapter, present, means)
    part.vote = replace(part.vote, rescue=RescueOfParts(snapshots, SimpleNamespace(completed=STEP)))
    with running_out(others) if rank == 1 else nullcontext():
        text = refused(lambda: session.switch(target), TransportError)
    assert "have landed here" in text
    return whole, pieces_of(snapshots._slots.spare)


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
    """All tensors as far as some rank has kept them, and how many elements of them none has."""
    whole = next(each for each, _ in answers if each)
    missing = 0
    for name, expected in whole.items():
        seen = torch.full_like(expected, float("nan"))
        for _, pieces in answers:
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
    shards = sum(len(pieces) for whole, kept in answers if whole for pieces in kept.values())
    assert others == 0 or any(kept for whole, kept in answers if not whole) or shards > 16 * 4, (
        "nothing of the target was kept, and so nothing was compared"
    )
