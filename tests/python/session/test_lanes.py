"""Which way device memory takes, decided without a GPU: copier and communicator are stand-ins."""

from __future__ import annotations

import logging

import pytest
import torch
from torch._C._distributed_c10d import HashStore

from dynatrain import DeviceError, Nccl, TransportError, _native
from dynatrain.generation.lanes import DEVICE, HOST, check_transport, take_device
from dynatrain.generation.members import Members
from stand_in_lanes import GPU, PairControl, alone, connect, maker, only_host_groups


class FreshStore:
    """Refuses a key that is there already."""

    def __init__(self, store):
        self.store = store

    def set(self, key, value):
        assert not self.store.check([key])
        self.store.set(key, value)

    def get(self, key, timeout_s):
        return self.store.get(key)


def raise_if_any(phase, error, value, combine=list):
    """What one rank agrees with itself."""
    if error is not None:
        raise error


def refuse(*_, **__):
    raise TransportError("transport: NCCL said no")


def test_nccl_carries_device_memory_where_all_ranks_can_use_it(job):
    keys = []
    connect(job, keys)
    lanes = maker("auto").make(alone(), "1")

    assert {name: lane.name for name, lane in lanes.items()} == {HOST: "c10d", DEVICE: "nccl"}
    assert keys == [b"\0\xff"]


# Were a prefix used twice, the second communicator would be made with the id of the first.
def test_each_attempt_has_a_store_of_its_own(job):
    keys = []
    connect(job, keys)
    lanes = maker("nccl")
    job.setattr(_native, "TorchStore", FreshStore)
    for attempt in range(2):
        lanes.make(alone(), str(attempt))

    assert len(keys) == 2


# A rank that failed before the lanes were made would count less than the others, and wait for an id
# under a prefix that they have left behind, at every later attempt too.
def test_a_rank_that_tried_more_often_finds_the_store_of_the_others(job):
    connect(job)
    purposes = []
    store_of = Members.store_of
    job.setattr(Members, "store_of", lambda s, p: purposes.append(p) or store_of(s, p))
    often, once = maker("nccl"), maker("nccl")
    often.make(alone(), "6")
    for lanes in (often, once):
        purposes.clear()
        lanes.make(alone(), "7")
        assert [p for p in purposes if "nccl" in p] == ["7/nccl"]


# Who did not ask gets plain staging; who did must not measure something else.
@pytest.mark.parametrize(("transport", "registers"), [("nccl", False), (Nccl(True), True)])
def test_staging_is_registered_only_where_it_was_asked_for(job, transport, registers):
    registered = connect(job)
    lanes = maker(transport).make(alone(), "1")

    assert lanes[DEVICE].name == "nccl"
    assert registered == [registers]


def test_c10d_is_taken_at_once_where_it_is_asked_for(job):
    job.setattr(_native, "NcclTransport", refuse)
    lanes = maker("c10d").make(alone(), "1")

    assert lanes[DEVICE].name == "c10d"
    assert lanes[DEVICE].max_direct == 0  # Gloo cannot read a tensor on a GPU


def test_auto_goes_through_the_host_and_says_why(job, caplog):
    job.setattr(_native, "NcclTransport", refuse)
    with caplog.at_level(logging.WARNING, "dynatrain.session"):
        lanes = maker("auto").make(alone(), "1")

    assert lanes[DEVICE].name == "c10d"
    assert "rank 0: transport: NCCL said no" in caplog.text


def test_nccl_that_was_asked_for_is_not_replaced(job):
    job.setattr(_native, "NcclTransport", refuse)
    with pytest.raises(DeviceError, match="rank 0: transport: NCCL said no"):
        maker("nccl").make(alone(), "1")


# This rank has a communicator, its peer has none: both must take the same way.
def test_one_rank_without_nccl_decides_for_all(job, caplog):
    connect(job)
    answers = ["GPU-two", None, "transport: the peer's NCCL said no"]
    with caplog.at_level(logging.WARNING, "dynatrain.session"):
        lanes = maker("auto").make(PairControl(answers), "1")

    assert lanes[DEVICE].name == "c10d"
    assert "rank 1: transport: the peer's NCCL said no" in caplog.text


def test_ranks_that_share_a_gpu_do_not_try_nccl(job, caplog):
    job.setattr(_native, "NcclTransport", pytest.fail)
    obstacle = "ranks [0, 1] share one GPU"
    with caplog.at_level(logging.WARNING, "dynatrain.session"):
        lanes = maker("auto").make(PairControl(["GPU-one", obstacle]), "1")

    assert lanes[DEVICE].name == "c10d"
    assert f"ranks 0-1: {obstacle}" in caplog.text


def test_ranks_that_share_a_gpu_try_nccl_where_it_was_told_to(job):
    connect(job)
    job.setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1")
    lanes = maker("auto").make(PairControl(["GPU-one", None, None]), "1")

    assert lanes[DEVICE].name == "nccl"


class Ending:
    """A transport that knows whether it was ended."""

    aborted = False

    def abort(self, reason):
        self.aborted = True


# Nobody would end them any more: they are of no generation, and peers may wait in them.
@pytest.mark.parametrize("refused", [RuntimeError("Gloo said no"), KeyboardInterrupt()])
def test_lanes_that_stand_are_ended_where_a_later_one_cannot_be_made(job, refused):
    made, host = maker("c10d"), Ending()

    def c10d(kind):
        if kind == HOST:
            return host
        raise refused

    job.setattr(made, "_c10d", c10d)
    job.setattr(_native, "Executor", lambda *_: None)
    control = alone()
    job.setattr(control, "agree", raise_if_any)
    with pytest.raises((TransportError, KeyboardInterrupt)):
        made.make(control, "1")

    assert host.aborted


# The peers' is none: a lane of this rank alone.
def test_a_lane_of_this_rank_alone_is_ended(job):
    made, host, control = maker("c10d"), Ending(), alone()

    def agree(phase, error, value, combine=list):
        if phase == "connecting the ranks":
            raise TransportError("rank 1 could not connect")

    job.setattr(made, "_c10d", lambda kind: host)
    job.setattr(_native, "Executor", lambda *_: None)
    job.setattr(control, "agree", agree)
    with pytest.raises(TransportError, match="rank 1 could not"):
        made.make(control, "1")

    assert host.aborted


def test_messages_that_were_asked_for_are_not_replaced(job):
    connect(job)
    job.setattr(_native, "connect_cuda_ipc", pytest.fail)
    made = only_host_groups(maker("nccl", num_ranks=2), job)

    assert made.make(alone(), "1")[DEVICE].name == "nccl"


@pytest.mark.parametrize(
    ("transport", "name"), [("nccl", "nccl"), (Nccl(True), "nccl"), ("cuda_ipc", "cuda_ipc")]
)
def test_what_moves_device_memory_is_refused_where_there_is_none(transport, name):
    refusal = f"transport='{name}' moves device memory, and the session's device is cpu"
    with pytest.raises(DeviceError, match=refusal):
        check_transport(transport, torch.device("cpu"))


def test_a_device_that_cannot_be_moved_is_refused():
    with pytest.raises(DeviceError, match="host memory and memory of CUDA devices"):
        take_device(torch.device("mps"), 0)


def test_a_gpu_that_is_not_there_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(_native, "cuda_problem", lambda: "no driver was found")
    with pytest.raises(DeviceError, match="no driver was found"):
        take_device(GPU, 0)


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs that nobody has chosen from yet; returns those that were made current."""
    chosen = []
    monkeypatch.setattr(_native, "cuda_problem", lambda: "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: bool(chosen))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1])
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    return chosen


# A mesh would take the one numbered LOCAL_RANK: ranks that share a GPU have no such one.
def test_the_sessions_gpu_becomes_the_current_one(gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "7")

    assert take_device(GPU, 0) == GPU
    assert gpus == [0]


# Every rank of torchrun would land on GPU 0.
def test_a_gpu_without_an_index_is_the_one_of_the_local_rank(gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")

    assert take_device(torch.device("cuda"), 0) == torch.device("cuda", 1)


def test_a_gpu_without_an_index_is_the_one_that_the_script_chose(gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    gpus.append(0)

    assert take_device(torch.device("cuda"), 0) == GPU


def test_a_local_rank_beyond_the_gpus_is_refused(gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(DeviceError, match=r"cuda:2 cannot be used: this process sees 2 GPUs"):
        take_device(torch.device("cuda"), 0)


def test_a_store_that_lacks_a_key_ends_the_wait():
    with pytest.raises(TransportError, match="failed to get 'absent'"):
        _native.TorchStore(HashStore()).get("absent", 0.05)
