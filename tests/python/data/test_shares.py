"""Shares of a global batch: what each data parallel rank reads of it, and what its loss weighs."""

from __future__ import annotations

import pytest

from dynatrain import ElasticSampler, Layout, LayoutError
from training_jobs import worlds

NUM_SAMPLES, GLOBAL_BATCH = 53, 12


# A rank without a sample would miss the collectives of the others' backward pass.
@pytest.mark.parametrize("uneven", [False, True])
def test_more_ranks_than_samples_of_a_step_are_refused(uneven):
    sampler = ElasticSampler(NUM_SAMPLES, 4, uneven_shares=uneven)

    with pytest.raises(LayoutError, match="expected at most 4 ranks"):
        sampler.check_layout(Layout.parse("dp_replicate=5"))


def test_uneven_shares_differ_by_one_sample_and_join_to_the_batch():
    options = {"shuffle": False, "uneven_shares": True}
    samplers = [ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, **options) for _ in range(5)]
    for sampler, world in zip(samplers, worlds("dp=5"), strict=True):
        sampler.on_world(world)

    shares = [next(iter(sampler)) for sampler in samplers]

    assert shares == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9], [10, 11]]


# Scripts without accumulation and with equal shares need no weight, and lose no bit by it.
def test_weight_of_a_whole_equal_share_is_one():
    for dp in (1, 2, 3, 4, 6, 12):
        sampler = ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH)
        sampler.on_world(worlds(f"dp={dp}")[-1])
        assert sampler.loss_weight(GLOBAL_BATCH // dp) == 1.0


# Tokens in place of samples would train with a loss some thousand times too large.
@pytest.mark.parametrize("num_samples", [0, -1, GLOBAL_BATCH + 1, 2.0])
def test_weight_of_what_is_no_part_of_a_batch_is_refused(num_samples):
    with pytest.raises(LayoutError, match=r"num_samples|samples of a global batch"):
        ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH).loss_weight(num_samples)
