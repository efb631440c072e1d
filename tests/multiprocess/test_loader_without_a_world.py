"""A loader that the script has forgotten to keep."""

from __future__ import annotations

import pytest
import torch

from dynatrain import ElasticLoader, ElasticSampler, LayoutError
from sessions import start


def take_a_batch(rank, world_size):
    dataset = torch.utils.data.TensorDataset(torch.arange(8))
    loader = ElasticLoader(dataset, ElasticSampler(8, 4, shuffle=False))
    session = start()
    with pytest.raises(LayoutError, match="keep="):
        next(loader)
    loader.on_world(session.world)
    return next(loader)[0].tolist()


# Every rank got the same whole batch and nothing was said: the job trained on four times less data.
def test_loader_that_knows_of_no_world_gives_no_batch(pool):
    assert pool.run(take_a_batch) == [[0], [1], [2], [3]]
