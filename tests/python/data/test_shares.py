"""Shares of a global batch: what each data parallel rank reads of it, and what its loss weighs."""

from __future__ import annotations

import weakref

import pytest
import torch

from dynatrain import ElasticLoader, ElasticSampler, Layout, LayoutError
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


def micro_batches(dp, size, **options):
    """A step's micro-batches on each rank."""
    found = []
    for world in worlds(f"dp={dp}"):
        sampler = ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, shuffle=False, uneven_shares=True)
        loader = ElasticLoader(range(NUM_SAMPLES), sampler, micro_batch_size=size, **options)
        loader.on_world(world)
        found.append([piece.tolist() for piece in next(loader)])
        assert loader.num_micro_batches == len(found[-1])
    return found


def seed_own(worker):
    torch.manual_seed(worker)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_workers": 2}, {"num_workers": 2, "worker_init_fn": seed_own}],
    ids=["alone", "workers", "workers with seeds of the script"],
)
def test_a_step_is_as_many_micro_batches_on_every_rank(options):
    assert micro_batches(5, 2, **options) == [
        [[0, 1], [2]],
        [[3, 4], [5]],
        [[6], [7]],
        [[8], [9]],
        [[10], [11]],
    ]


# One step is one place of the cursor, so that steps of session and loader stay together.
def test_cursor_counts_steps_not_micro_batches():
    sampler = ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, shuffle=False)
    loader = ElasticLoader(range(NUM_SAMPLES), sampler, micro_batch_size=5)

    first, second = next(loader), next(loader)

    assert [len(piece) for piece in first] == [4, 4, 4]
    assert second[0].tolist() == [12, 13, 14, 15]
    assert loader.state_dict()["step"] == 2


# In a cycle, its workers would go on until Python's next collection, and wait there to be ended.
def test_a_loader_that_is_dropped_is_gone_at_once():
    sampler = ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH)
    loader = ElasticLoader(range(NUM_SAMPLES), sampler, micro_batch_size=5)
    next(loader)
    left = weakref.ref(loader)

    del loader

    assert left() is None


# A rank without a third micro-batch never comes to the collectives of the others' third one.
def test_micro_batches_that_some_ranks_cannot_fill_are_refused_and_the_old_rule_stays():
    sampler = ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, shuffle=False, uneven_shares=True)
    loader = ElasticLoader(range(NUM_SAMPLES), sampler, micro_batch_size=1)

    with pytest.raises(LayoutError, match="3 micro-batches from shares of 2 and 3 samples"):
        loader.on_world(worlds("dp=5")[4])
    loader.check_layout(Layout(dp=6))

    assert len(next(loader)) == loader.num_micro_batches == GLOBAL_BATCH


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "4"])
def test_sizes_of_micro_batches_that_are_none_are_refused(size):
    sampler = ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH)

    with pytest.raises(LayoutError, match="micro_batch_size"):
        ElasticLoader(range(NUM_SAMPLES), sampler, micro_batch_size=size)
