"""A job of one process, without a launcher."""

from __future__ import annotations

import pytest
import torch.distributed as dist

import dynatrain


@pytest.fixture
def alone(monkeypatch):
    """The environment of a plain `python train.py`."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def start_alone(alone):
    """Calls ``init`` as a plain `python train.py` would; ends what was started."""
    sessions = []

    def start(build, layout="dp=1", **options):
        sessions.append(dynatrain.init(build, layout, **{"timeout_s": 20, **options}))
        return sessions[-1]

    yield start
    for session in sessions:
        session.close()
    if dist.is_initialized():
        dist.destroy_process_group()
