"""Checkpoints of members that are threads: what is written, and read; what is refused."""

from __future__ import annotations

import errno
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict_loader import load

from dynatrain import LayoutError, _native, words
from dynatrain.elastic import checkpoint_files, checkpoint_reader
from dynatrain.elastic.checkpoint_files import INDEX, VALUE, pieces_of
from dynatrain.elastic.checkpoint_folder import CheckpointFolder
from dynatrain.elastic.checkpoint_reader import Checkpoint, shared_out
from dynatrain.elastic.copies import CopiedState, Snapshot, bytes_of
from dynatrain.elastic.saving import Saving
from dynatrain.join import join
from ranks_in_threads import STUCK_S, Outside, ThreadMembers, run_ranks
from trained_toys import Job, Trains, together_in

SHAPE = (7, 6)


def elements():
    """Of each tensor, so that no two are the same."""
    return {
        "weight|param": torch.arange(42, dtype=torch.float32).view(SHAPE),
        "weight|exp_avg": torch.arange(42).view(SHAPE).to(torch.bfloat16) / 3,
        "step|buffer": torch.tensor(11, dtype=torch.int64),
        "none|buffer": torch.empty(0, 3, dtype=torch.float16),
        "mask|buffer": torch.tensor([True, False, True]),
    }


def add(table, name, whole, boxes):
    dtype, itemsize = str(whole.dtype).removeprefix("torch."), whole.element_size()
    own, fragments, offset = [], [], 0
    for begin, end in boxes:
        part = whole[tuple(map(slice, begin, end))].contiguous()
        fragments.append((begin, end, offset, part.stride()))
        own.append(part.reshape(-1))
        offset += part.numel()
    memory = torch.cat(own) if own else whole
    nbytes = memory.numel() * itemsize
    table.add_fragments(name, whole.shape, dtype, itemsize, fragments, memory.data_ptr(), nbytes)
    return memory


def copied(rank, cuts, version=5):
    """What a member has copied that has these boxes of weight and moment; the rest whole."""
    table, memory = _native.StateTable(), []
    for name, whole in elements().items():
        boxes = cuts if name.startswith("weight") else [([0] * whole.dim(), list(whole.shape))]
        memory.append(add(table, name, whole, boxes if whole.numel() else []))
    packed = _native.PackedState(table, 0)
    run = _native.HostRun(packed.size_bytes)
    packed.copy(_native.CpuCopier(1), run, [], STUCK_S)
    parts = {"shared/lr": words.encode(0.5), "per_rank/stream": words.encode(f"seed {rank}")}
    nothing = frozenset()
    state = CopiedState(
        1, "dp=2", version, f"member {rank}", packed.size_bytes, packed.blob(), parts, None, {},
        nothing,
        frozenset(elements()),
    )  # fmt: skip
    return Snapshot(run, state, own_kept={"keep.own": words.encode(rank)})


ROWS = [([0, 0], [2, 6])], [([2, 0], [5, 6])], [([5, 0], [7, 6])]


def saved(path, cuts=ROWS, version=5, each=lambda rank, copies: None):
    """Has as many members write a checkpoint; what became of it, by rank."""
    outside = Outside(len(cuts))

    def work(rank):
        members = ThreadMembers("world", rank, outside.members, outside.store, outside)
        means = together_in(CheckpointFolder(path), members, version + rank)
        copies = copied(rank, cuts[rank], version)
        each(rank, copies)
        return Saving(means).save(copies)

    return run_ranks(outside, work)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "_ENTRY_BYTES", 30)  # a row of the weight, at most
    return tmp_path / "checkpoints"


# What users have are torch's tools. They must see every tensor under its name, whole.
def test_torch_reads_what_is_written(path):
    verdicts = saved(path)
    assert [each.why for each in verdicts] == [()] * 3
    assert {each.at for each in verdicts} == {7}
    folder = path / "step-5"

    loaded = {name: torch.empty_like(whole) for name, whole in elements().items()}
    load(loaded, checkpoint_id=folder, no_dist=True)
    dcp_to_torch_save(folder, path / "one.pt")
    found = torch.load(path / "one.pt", weights_only=True)
    for name, whole in elements().items():
        assert torch.equal(loaded[name], whole), name
        assert torch.equal(found[name], whole), name
    contents = {words.decode(v.numpy().tobytes()) for k, v in found.items() if k.startswith(VALUE)}
    assert contents == {0.5, "seed 0", "seed 1", "seed 2", 0, 1, 2}


# A checkpoint is a layout with fewer owners: any other cut is read of it, and nothing besides.
def test_missing_boxes_are_read_once_and_nothing_else(path, monkeypatch):
    saved(path)
    checkpoint = Checkpoint(path / "step-5")
    assert checkpoint.index.members == ("member 0", "member 1", "member 2")
    missing = {"weight|param": [((1, 2), (6, 6))], "step|buffer": [((), ())]}
    wanted = checkpoint.wanted(missing)
    shares = shared_out(wanted, 2)
    read = []
    planned = checkpoint_reader._Planner.plan
    monkeypatch.setattr(
        checkpoint_reader._Planner, "plan", lambda s, e: planned(s, read.extend(e) or e)
    )
    found = torch.zeros(SHAPE)
    for share in shares:
        run, blob = checkpoint.read(share)
        for name, pieces in pieces_of(blob).items():
            for piece in pieces:
                part = piece.of(bytes_of(run), piece.box)
                if name == "weight|param":
                    found[tuple(map(slice, *piece.box))] += part
                else:
                    assert part.item() == 11
    expected = torch.zeros(SHAPE)
    expected[1:6, 2:6] = elements()["weight|param"][1:6, 2:6]
    assert torch.equal(found, expected)
    rows = [("weight|param", (row, 0)) for row in range(1, 6)]
    assert sorted(read) == sorted([*rows, ("step|buffer", ())])
    assert abs(len(shares[0]) - len(shares[1])) <= 2


# Tensors without an element have no box that could be missing, and must be there all the same.
def test_all_of_it_makes_a_whole_state(path):
    saved(path)
    checkpoint = Checkpoint(path / "step-5")
    every = {
        name: [((0,) * len(shape), shape)] for name, (shape, _, _) in checkpoint.tensors.items()
    }
    runs = [checkpoint.read(share) for share in shared_out(checkpoint.wanted(every), 3)]
    tables = [_native.packed_table([(blob, 0)], run) for run, blob in runs]
    merged = _native.ShardMap.merge([(t.encode(), [rank]) for rank, t in enumerate(tables)])
    merged.prove_coverage()
    assert sorted(merged.names()) == sorted(elements())
    for name, whole in elements().items():
        assert merged.info(name)[0] == list(whole.shape)


# With more readers than boxes, none falls to some. Such a one has a copy to bring, which the others
# wait for, and torch makes no tensor over a buffer of nothing.
def test_a_member_to_which_no_box_falls_brings_its_copy():
    copies = copied(0, ROWS[0])
    copies.sums[0] = copies.run.sum(0, copies.own.size_bytes)
    nothing = replace(copies.own, size_bytes=0, blob=_native.StateTable().encode())

    held = copies.held(torch.device("cpu"), (), (nothing, _native.HostRun(0)))

    assert set(held.table.names()) == set(elements())


# Replicas: of what several have, one writes. Boxes that overlap, as no layout of ours makes them,
# would be written twice, and torch would refuse the checkpoint.
@pytest.mark.parametrize(
    "cuts",
    [
        [[([0, 0], [7, 6])]] * 3,
        [[([0, 0], [4, 6])], [([0, 0], [4, 6])], [([4, 0], [7, 6])]],
        [[([0, 0], [5, 6])], [([3, 0], [7, 6])], [([0, 2], [7, 4])]],
    ],
)
def test_every_element_is_written_once(path, cuts):
    assert not saved(path, cuts)[0].why
    checkpoint = Checkpoint(path / "step-5")
    for name, (shape, _, entries) in checkpoint.tensors.items():
        corners = [zip(*box, strict=True) for box in entries]
        volumes = [int(np.prod([e - b for b, e in each], dtype=int)) for each in corners]
        assert sum(volumes) == int(np.prod(shape, dtype=int)), name
    check_torch_loads(path)


def check_torch_loads(path):
    loaded = {name: torch.empty_like(whole) for name, whole in elements().items()}
    load(loaded, checkpoint_id=path / "step-5", no_dist=True)
    for name, whole in elements().items():
        assert torch.equal(loaded[name], whole), name


# Torch's format has no sum that anybody looks at: a bit that has turned would be trained on.
@pytest.mark.parametrize("what", ["__1_0.distcp", ".metadata", INDEX])
@pytest.mark.parametrize("how", ["turned", "cut short", "gone"])
def test_a_damaged_checkpoint_is_refused_by_name(path, what, how):
    saved(path)
    file = path / "step-5" / what
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if what.startswith("__1"):  # where elements lie
        at = content.find(elements()["weight|param"][2].numpy().tobytes())
        content = bytearray(file.read_bytes())
        content[at] ^= 1
    file.write_bytes(content if how == "turned" else content[: len(content) // 2])
    if how == "gone":
        file.unlink()

    def read():
        checkpoint = Checkpoint(path / "step-5")
        checkpoint.read(checkpoint.wanted({"weight|param": [((0, 0), SHAPE)]}))

    with pytest.raises(LayoutError, match="step-5 is not used"):
        read()


# One disk is full, or one member is told to end: all hear why, and nothing is left of it.
def test_a_member_that_cannot_write_costs_the_older_one_nothing(path, monkeypatch):
    saved(path, version=4)

    def fails(rank, copies):
        if rank == 1:
            copies.run = None  # nothing to write from

    verdicts = saved(path, each=fails)
    assert all(each.why[0][0] == 1 for each in verdicts)
    assert [each.name for each in path.iterdir()] == ["step-4"]
    assert CheckpointFolder(path).versions == [4]


# Copies of which a part lacks are no checkpoint.
def test_what_is_not_covered_is_not_written(path):
    verdicts = saved(path, [ROWS[0], ROWS[2]])
    assert all("no rank holds" in each.why[0][1] for each in verdicts)
    assert CheckpointFolder(path).versions == []


# ---- the folder ----------------------------------------------------------------------------------


def test_the_last_two_are_kept(path):
    for version in (4, 9, 16):
        saved(path, version=version)
    assert CheckpointFolder(path).versions == [16, 9]
    assert sorted(each.name for each in path.iterdir()) == ["step-16", "step-9"]


# A job that begins anew would sweep what an earlier one has left, as steps that it has undone.
def test_a_job_does_not_begin_at_nothing_over_checkpoints(path):
    CheckpointFolder(path).check_unused()
    saved(path)
    with pytest.raises(LayoutError, match="has a checkpoint after 5 steps, and this job begins at"):
        CheckpointFolder(path).check_unused()


# What cannot be read is not what is not there: a job would begin at step 0 again.
def test_a_folder_that_cannot_be_read_is_not_an_empty_one(path, monkeypatch):
    def fails(_):
        raise OSError(errno.EIO, "the server does not answer")

    monkeypatch.setattr(type(path), "iterdir", fails)
    with pytest.raises(OSError, match="does not answer"):
        CheckpointFolder(path).find()
    assert CheckpointFolder(path).versions == []


# Who dies in the middle leaves what is not taken for a checkpoint; the next world sweeps it. What
# somebody else has put there is left alone, whatever its name.
def test_what_is_half_or_undone_is_swept(path):
    saved(path, version=4)
    saved(path, version=9)
    (path / ".partial-16-1.1").mkdir()
    (path / ".partial-16-1.1" / INDEX).touch()
    (path / "step-12").mkdir()
    (path / "step-12" / "notes").touch()
    folder = CheckpointFolder(path)
    assert folder.versions == [9, 4]
    folder.sweep(4)
    assert folder.versions == [4]
    assert sorted(each.name for each in path.iterdir()) == ["step-12", "step-4"]
    assert "step-12" in saved(path, version=12)[0].why[0][1]
    assert folder.versions == [4]


# ---- what join is given --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"checkpoint_every": 0, "checkpoint_dir": "x"}, "checkpoint_every=0"),
        ({"checkpoint_every": 2.5, "checkpoint_dir": "x"}, r"checkpoint_every=2\.5"),
        ({"checkpoint_every": 5}, "both checkpoint_dir and checkpoint_every"),
        ({"checkpoint_dir": "x"}, "both checkpoint_dir and checkpoint_every"),
        ({"checkpoint_every": 5, "checkpoint_dir": ""}, "the path of a folder"),
        ({"checkpoint_every": 5, "checkpoint_dir": 7}, "the path of a folder"),
        ({"checkpoint_every": 5, "checkpoint_dir": __file__}, "the path of a folder"),
        (
            {"checkpoint_every": 5, "checkpoint_dir": "x", "snapshot_every": 6},
            "at least snapshot_every=6",
        ),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(tmp_path, wrong, told):
    secret = tmp_path / "secret"
    secret.write_text("a secret of some bytes")
    with pytest.raises(LayoutError, match=told):
        join(lambda world: None, "127.0.0.1:1", secret_file=secret, **wrong)


# ---- while a world trains ------------------------------------------------------------------------


def trained(path, num_ranks, every, number, steps=0):
    """Trains until so many checkpoints are told of; their versions, and what else was told."""
    outside, folder = Job(num_ranks), CheckpointFolder(path)

    def work(rank):
        trains = Trains(outside, rank, every, f"dp={num_ranks}", (3, folder))
        while True:
            trains.step()
            with trains.changed:
                trains.changed.wait(0.01)
                told = [text for kind, text in trains.told if kind == "checkpoint"]
            least = min(outside.together(rank, len(told)))
            if trains.state.steps > 200 if steps else least >= number:
                break
        trains.snapshots.halt()
        return trains.snapshots, sorted(kind for kind, _ in trains.told)

    return run_ranks(outside, work), folder


# Where no copy goes to a keeper, and where there is nobody who could keep one, copies go to disk
# all the same.
@pytest.mark.parametrize(("num_ranks", "every"), [(1, None), (1, 2), (2, None), (2, 2)])
def test_checkpoints_are_written_beside_training(path, num_ranks, every):
    found, folder = trained(path, num_ranks, every, 3)
    assert len(folder.versions) == 2
    for snapshots, told in found:
        assert set(folder.versions) & set(snapshots.on_disk)
        assert ("snapshot" in told) is (num_ranks > 1 and every is not None)
    for version in folder.versions:
        checkpoint = Checkpoint(folder.of(version))
        _, _, entries = checkpoint.tensors["weight|param"]
        run, blob = checkpoint.read(checkpoint.wanted({"weight|param": [((0, 0), (16, 12))]}))
        assert len(entries) >= num_ranks
        # The toy has counted each step into each element.
        first = min(pieces_of(blob)["weight|param"], key=lambda each: each.box)
        assert first.of(bytes_of(run), first.box).reshape(-1)[0].item() % 1000 == 1 + version


# No room on the disk, or none for this user: the log says so once a round, and no step hears of it.
def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    (tmp_path / "file").touch()
    found, folder = trained(tmp_path / "file" / "checkpoints", 2, None, 0, steps=200)
    assert folder.versions == []
    assert all("checkpoint" not in told for _, told in found)
    assert "the checkpoint after" in caplog.text
    assert "older ones stand" in caplog.text
