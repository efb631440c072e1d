"""Tests that only a GPU can pass: elsewhere they are skipped, with CUDA's reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynatrain import _native

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items):
    problem = _native.cuda_problem()
    for item in items:  # those of other folders come along
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if problem:
                item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {problem}"))
