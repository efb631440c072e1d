"""Stand-ins for what a device's lanes are made of: a communicator, peers' memory, other ranks."""

from __future__ import annotations

from datetime import timedelta

import torch
from torch._C._distributed_c10d import HashStore

from dynatrain import _native
from dynatrain.generation.control import Control
from dynatrain.generation.lanes import LaneMaker
from dynatrain.generation.members import Members

GPU = torch.device("cuda", 0)


class Properties:
    uuid = "GPU-one"


class PairControl(Control):
    """This rank's control, and a peer that answers what the test says."""

    def __init__(self, answers):
        super().__init__(
            Members.of_ranks("a session", 0, 1, HashStore()), timedelta(seconds=20), "a pair"
        )
        self.answers = list(answers)

    def gather(self, value, phase):
        return [value, self.answers.pop(0)]

    def agree(self, phase, error, value, combine=list):
        assert error is None
        return combine([value, value if value is None else self.answers.pop(0)])


def connect(job, store_keys=None):
    """NCCL that works; returns whether each transport was to register its staging."""
    world = _native.LoopbackWorld(1)
    registered = []

    def transport(*place, register_staging):
        rank, _, store, device, timeout_s = place
        assert (rank, device, timeout_s) == (0, 0, 20)
        registered.append(register_staging)
        store.set("id", b"\0\xff")
        if store_keys is not None:
            store_keys.append(store.get("id", 1))
        return world.transport(0)

    job.setattr(_native, "NcclTransport", transport)
    return registered


def maker(transport, num_ranks=1):
    members = Members.of_ranks("a session", 0, num_ranks, HashStore())
    return LaneMaker(members, GPU, transport, timedelta(seconds=20), 1)


def alone():
    """The control of one rank."""
    return Control(
        Members.of_ranks("a session", 0, 1, HashStore()), timedelta(seconds=20), "a test"
    )


def share(job, problem):
    """CUDA IPC between two ranks that works, or not; returns the ranks of each connection."""
    laid_over = []

    def connection(messages, store, ranks, device, timeout_s):
        assert (device, timeout_s) == (0, 20)
        store.set("probe", b"never used before")
        laid_over.append(ranks)
        world = _native.LoopbackWorld(2, one_sided=not problem)
        report = type("Report", (), {"problem": problem})
        return type("Connection", (), {"transport": world.transport(0), "report": report})

    job.setattr(_native, "connect_cuda_ipc", connection)
    return laid_over


def only_host_groups(made, job):
    """A maker of two ranks whose Gloo groups are this process's alone."""
    world = _native.LoopbackWorld(1)
    job.setattr(made, "_c10d", lambda kind: world.transport(0))
    return made
