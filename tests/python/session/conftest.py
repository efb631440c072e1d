"""A job of one process, without a launcher."""

from __future__ import annotations

import pytest
import torch.distributed as dist

import dynatrain
import training_jobs as jobs


@pytest.fixture
def start(monkeypatch):
    """Calls ``init`` as a plain `python train.py` would; ends what was started."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    sessions = []

    def begin(build=jobs.build, layout="dp=1", **options):
        settings = {"initialize": jobs.initialize, "timeout_s": 20, **options}
        sessions.append(dynatrain.init(build, layout, **settings))
        return sessions[-1]

    yield begin
    for session in sessions:
        session.close()
    if dist.is_initialized():
        dist.destroy_process_group()
