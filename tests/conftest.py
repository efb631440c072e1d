"""What every test folder shares: the pool of worker processes and one profile for hypothesis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from worker_pool import WorkerPool

# The same examples on every machine: a failure seen in CI is seen here.
settings.register_profile("dynatrain", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("dynatrain")


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    """Real processes over Gloo, started on first use and shared by all tests."""
    workers = WorkerPool()
    yield workers
    workers.close()
