"""States as ranks get them: of a session of one process, or made anew beside no source."""

from __future__ import annotations

import pytest
import torch

from dynatrain.adapters.torch import TorchAdapter


@pytest.fixture(scope="session")
def adapter():
    return TorchAdapter(torch.device("cpu"))


@pytest.fixture
def start(start_alone):
    """Starts a session of what ``build()`` makes."""

    def start(build, **options):
        return start_alone(lambda world: build(), **options)

    return start


@pytest.fixture
def made_anew(adapter):
    """The state of ``build`` as a rank gets it that adopts nothing: meta first, then zeros."""

    def made_anew(build):
        state = adapter.build_on_meta(build, "a test")
        adapter.materialize(adapter.inventory(state), None, ())
        return state

    return made_anew
