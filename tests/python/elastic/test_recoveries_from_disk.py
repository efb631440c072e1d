"""Recoveries of ranks that are threads, where a checkpoint has what nobody else has."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from dynatrain import Layout, LayoutError
from dynatrain.elastic import checkpoint_files, checkpoint_reader, missing
from dynatrain.elastic.attempts import is_hole
from dynatrain.elastic.cadence import Cadence
from dynatrain.elastic.checkpoint_folder import CheckpointFolder
from dynatrain.elastic.missing import Brings
from dynatrain.elastic.rounds import Begins, Means
from dynatrain.elastic.saving import Saving
from dynatrain.elastic.snapshots import Snapshots
from dynatrain.generation.seats import Seats
from dynatrain.joining import Joining
from ranks_in_threads import Outside, run_ranks
from toy_sessions import FOLLOWING, NUM_RANKS, SOURCE, holds_its_part, start
from toy_state import Places, ToyAdapter
from trained_toys import WAIT, together_in


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "_ENTRY_BYTES", 48)  # one row of the weight
    monkeypatch.setattr(Places, "forget_ended", lambda self: None, raising=False)
    monkeypatch.setattr(Places, "note_idle", lambda self, seats: None, raising=False)
    return CheckpointFolder(tmp_path)


@pytest.fixture
def streams(monkeypatch):
    """What each rank hears of a stream that is another one in each place."""
    heard = []
    own = lambda self, inventory: {"stream": inventory.state.rank}  # noqa: E731

    def continued(self, published, seed, rank, step):
        heard.append([part.value for part in published.per_rank["stream"]])
        return []

    monkeypatch.setattr(ToyAdapter, "own_values", own)
    monkeypatch.setattr(ToyAdapter, "continue_streams", continued)
    return heard


class OfItsRank:
    """A kept object whose state is nobody else's."""

    per_rank = True

    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state_dict):
        self.value = state_dict["value"]


@pytest.fixture
def read(monkeypatch):
    """The entries of tensors that any rank reads."""
    found, lock, planned = [], threading.Lock(), checkpoint_reader._Planner.plan

    def plan(planner, entries):
        with lock:
            found.extend(each for each in entries if each[0].endswith("param"))
        return planned(planner, entries)

    monkeypatch.setattr(checkpoint_reader._Planner, "plan", plan)
    return found


def rows(*ranks):
    """The entries of the weight that these ranks had."""
    height = 16 // NUM_RANKS
    return [("weight|param", (rank * height + row, 0)) for rank in ranks for row in range(height)]


def saved(part, outside, folder):
    """The copies of a rank after five steps, which are on disk, too."""
    members = part.generation.members
    told = (lambda kind, text: None), (lambda epoch, is_on_disk: None)
    means = Means(torch.device("cpu"), 1, WAIT, lambda: [], *told)
    snapshots = Snapshots(Cadence(None, 5, folder), part.adapter, part.present, means)
    snapshots._member, snapshots._begins = members.own.id, Begins(1, 5)
    slot = snapshots._slots.spare
    slot.make_room(snapshots._size(), torch.device("cpu"))
    assert not snapshots._copied(5).why
    slot.sums[0] = slot.run.sum(0, slot.own.size_bytes)
    assert not Saving(together_in(folder, members, 5)).save(slot).why
    return snapshots


def recovered(folder, lost, *, live=(), copied=(), spoil=None):
    """Whether each rank has its part in another layout, after a loss in a step behind the fifth.

    Args:
        folder: of checkpoints.
        lost: ranks whose places are nobody's; they come anew, with nothing.
        live: ranks that still have the state of five steps.
        copied: ranks that have a copy of it.
        spoil: done to the folder before.
    """
    outside = Outside(NUM_RANKS)

    def work(rank):
        part = start(outside, rank)
        own = OfItsRank(rank)
        part.present.keep = {"own": own}
        snapshots = saved(part, outside, folder)
        ids = [each.id for each in part.generation.members.each]
        part.progress.completed = 5 if rank in live else 7
        part.progress.is_torn = rank not in live
        if rank not in copied:
            snapshots._slots.spare.forget()
        if rank not in live:
            part.present.state.arrays["weight|param"][:] = 0
        if spoil is not None and rank == 0:
            spoil(folder.of(5))
        own.value = "of a later step"
        outside.gathered(rank, None)
        joining = Joining(part, None, part.present.keep, [], snapshots)
        places = tuple("" if each in lost else member for each, member in enumerate(ids))
        joining.hold(part.generation, Seats(Layout.parse(SOURCE), places), 0, 5)
        joining.prepare(Layout.parse(FOLLOWING))
        joining.go(Layout.parse(FOLLOWING))
        is_back = own.value == rank or (rank in live and rank not in copied) or rank in lost
        return holds_its_part(part) and is_back, part.progress.completed

    return run_ranks(outside, work)


# What is read is what neither memory has, by one member each; and the state is whole in any layout.
@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (([1], [], [0, 2, 3]), [1]),
        (([1, 2], [], [0, 3]), [1, 2]),
        (([1], [0, 2, 3], []), [1]),
        (([1], [0, 2, 3], [0]), [1]),
        (([3], [0], [1]), [2, 3]),
        (([], [], []), [0, 1, 2, 3]),
        (([0, 1, 2, 3], [], []), [0, 1, 2, 3]),
    ],
)
def test_only_what_nobody_has_is_read(folder, read, left, expected):
    lost, live, copied = left
    assert recovered(folder, lost, live=live, copied=copied) == [(True, 5)] * NUM_RANKS
    weights = [each for each in read if each[0] == "weight|param"]
    assert sorted(weights) == sorted(rows(*expected))
    assert read.count(("bias|param", (0,))) == (1 if len(expected) == NUM_RANKS else 0)


# A stream that was another one in each place has to be so again, though one member is all that has
# anything: what it publishes alone would pass for what all had. Members that come have other ids.
@pytest.mark.parametrize("copied", [[0], [], [0, 1, 2, 3]])
def test_streams_of_places_are_not_joined(folder, streams, monkeypatch, copied):
    monkeypatch.setattr(missing._Share, "_own", lambda self, member: [])
    lost = [rank for rank in range(NUM_RANKS) if rank not in copied]
    outcomes = recovered(folder, lost, copied=copied)
    assert outcomes == [(True, 5)] * NUM_RANKS
    assert [len(each) for each in streams] == [2] * NUM_RANKS


# All who are left live at that very step and have no copy: what one of them read would have no
# place beside its state. So none brings it, and all of it is read.
def test_where_nobody_can_read_beside_its_state_all_is_read(folder, read, monkeypatch):
    monkeypatch.setattr(Brings, "can_read", False)
    assert recovered(folder, [1], live=[0, 2, 3]) == [(True, 5)] * NUM_RANKS
    assert sorted(each for each in read if each[0] == "weight|param") == sorted(rows(0, 1, 2, 3))


# Damage is told by name on all ranks, and nothing has been moved: another version follows.
def test_a_damaged_checkpoint_is_refused_on_all_ranks(folder):
    def spoil(path):
        file = path / "__1_0.distcp"
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])

    with pytest.raises(LayoutError, match="step-5 is not used"):
        recovered(folder, [1], copied=[0, 2, 3], spoil=spoil)


# Without a checkpoint of that version the error still names what lacks.
def test_without_any_source_the_error_names_the_region(folder):
    def spoil(path):
        path.rename(path.with_name("step-4"))

    with pytest.raises(LayoutError, match=r"no rank holds .* of 'weight") as raised:
        recovered(folder, [1], copied=[0, 2, 3], spoil=spoil)
    assert is_hole(raised.value)  # members end for that, and for no target that does not fit


# A disk that hangs is no error by itself: the training thread sat in the read for good, the same
# version was tried again and again, and the older one, on a disk that answers, never.
@pytest.mark.parametrize("hangs", ["index", "data"])
def test_a_checkpoint_that_is_not_read_in_time_is_refused_as_a_damaged_one(
    folder, monkeypatch, hangs
):
    goes_on, pipes = threading.Event(), []

    def spoil(path):
        if hangs == "data":
            pipes.append(path / "__1_0.distcp")
            pipes[0].unlink()
            os.mkfifo(pipes[0])  # whoever opens it waits for one who writes
        else:
            monkeypatch.setattr(
                checkpoint_reader, "read_index", lambda _: goes_on.wait(WAIT.total_seconds())
            )

    monkeypatch.setattr(missing, "_READING", 0.5 / WAIT.total_seconds())
    with pytest.raises(LayoutError, match=r"step-5 is not used: it has not been read within 0.5 s"):
        recovered(folder, [1], copied=[0, 2, 3], spoil=spoil)
    goes_on.set()
    for pipe in pipes:
        os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
