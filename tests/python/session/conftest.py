"""Sessions of one process: of the small job, or of a build that says what is held beside it."""

from __future__ import annotations

from functools import partial

import pytest

import training_jobs as jobs


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
