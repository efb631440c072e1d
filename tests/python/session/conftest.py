"""Sessions of one process: of the small job, or of a build that says what is held beside it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

import training_jobs as jobs
from dynatrain import _native
from stand_in_lanes import Properties


@pytest.fixture
def start(start_alone):
    """Starts the small job, or another one of its weights."""

    def start(build=jobs.build, layout="dp=1", **options):
        return start_alone(build, layout, **{"initialize": jobs.initialize, **options})

    return start


@pytest.fixture
def start_verified(start_alone):
    """Starts what ``build`` makes; every switch compares sums and fingerprints."""
    return partial(start_alone, verify=("sums", "fingerprint"))


@pytest.fixture
def job(monkeypatch):
    """A job of one process, in which a CUDA device seems to work."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    monkeypatch.setattr(_native, "CudaCopier", lambda _: _native.CpuCopier(1))
    monkeypatch.setattr(_native, "nccl_report", lambda: type("Report", (), {"problem": ""})())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    yield monkeypatch
    dist.destroy_process_group()
