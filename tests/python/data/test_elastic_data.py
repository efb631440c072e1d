"""The global sample order is one list, whatever the layout that reads it and when it changes."""

from __future__ import annotations

import random
from itertools import chain

import numpy as np
import pytest
import torch

from dynatrain import ElasticLoader, ElasticSampler, LayoutError
from training_jobs import worlds

NUM_SAMPLES, GLOBAL_BATCH = 53, 12


class Noisy(torch.utils.data.Dataset):
    """Each sample and what it draws from every default stream."""

    def __len__(self):
        return NUM_SAMPLES

    def __getitem__(self, index):
        return index, torch.rand(()).item(), random.random(), np.random.random()


class NoisyInBatches(Noisy):
    def __getitems__(self, indices):
        return [Noisy.__getitem__(self, index) for index in indices]


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return NUM_SAMPLES

    def __getitem__(self, index):
        return index


def loaders(layout, **options):
    """One loader per rank of the layout."""
    made = []
    for world in worlds(layout):
        loader = ElasticLoader(
            Numbers(), ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, seed=3), **options
        )
        loader.on_world(world)
        made.append(loader)
    return made


def take(ranks, num_steps):
    """Global batches: all ranks' batches of a step, joined in rank order."""
    return [[int(i) for loader in ranks for i in next(loader)] for _ in range(num_steps)]


EXPECTED_STEPS = 9  # two epochs of 53 samples, and two samples of the third


@pytest.fixture(scope="module")
def expected():
    return take(loaders("dp=1"), EXPECTED_STEPS)


# Law 8: the global batch of a step is the same whichever layout trains it.
@pytest.mark.parametrize("dp", [1, 2, 3, 4, 6])
def test_global_order_does_not_depend_on_dp(expected, dp):
    assert take(loaders(f"dp={dp}"), EXPECTED_STEPS) == expected


def test_replicas_and_shards_share_one_data_parallel_numbering(expected):
    assert take(loaders("dp_replicate=2,dp=3"), EXPECTED_STEPS) == expected


# Ranks of one tensor, context or pipeline group work on the same samples.
@pytest.mark.parametrize("axis", ["tp", "cp", "pp"])
def test_ranks_inside_a_model_replica_read_the_same_samples(axis):
    ranks = loaders(f"dp=2,{axis}=2")
    batches = [[int(i) for i in next(loader)] for loader in ranks]
    by_dp = {}
    for world, batch in zip(worlds(f"dp=2,{axis}=2"), batches, strict=True):
        by_dp.setdefault(world.coordinate("dp_shard"), []).append(batch)

    assert all(pair[0] == pair[1] for pair in by_dp.values())
    assert by_dp[0][0] != by_dp[1][0]


# 53 samples in batches of 12: the fifth batch ends the first epoch and begins the second.
def test_an_epoch_has_every_sample_once_and_epochs_differ(expected):
    read = list(chain(*expected))
    first, second = read[:NUM_SAMPLES], read[NUM_SAMPLES : 2 * NUM_SAMPLES]

    assert sorted(first) == sorted(second) == list(range(NUM_SAMPLES))
    assert first != second


def test_without_shuffling_the_order_is_the_dataset_s():
    loader = ElasticLoader(Numbers(), ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, shuffle=False))

    assert list(chain(*take([loader], 4))) == list(range(48))
    assert take([loader], 1) == [[48, 49, 50, 51, 52, 0, 1, 2, 3, 4, 5, 6]]


# For scripts that need steps of one epoch alone, such as those that evaluate behind each.
def test_with_drop_last_a_step_has_samples_of_one_epoch():
    sampler = ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, shuffle=False, drop_last=True)

    batches = take([ElasticLoader(Numbers(), sampler)], 5)

    assert list(chain(*batches[:4])) == list(range(48))
    assert batches[4] == list(range(GLOBAL_BATCH))


# A schedule of the learning rate is as long as the run; one step less leaves a sample out.
@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, [0, 5, 9, 14, 53]), ({"drop_last": True}, [0, 4, 8, 12, 48])],
    ids=str,
)
def test_steps_of_epochs_are_as_many_as_read_every_sample(options, expected):
    sampler = ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, **options)

    assert [sampler.num_steps(epochs) for epochs in (0, 1, 2, 3, 12)] == expected
    assert sampler.num_steps() == expected[1]


# Workers have fetched the old layout's batches ahead. Used, samples are repeated; skipped, lost.
@pytest.mark.parametrize("num_workers", [0, 2])
def test_switch_in_the_middle_skips_and_repeats_no_sample(expected, num_workers):
    ranks = loaders("dp=2", num_workers=num_workers)
    taken = take(ranks, 3)
    for loader, world in zip(ranks, worlds("dp=2"), strict=True):
        loader.on_world(None if world.rank else worlds("dp=1")[0])
    taken += take(ranks[:1], 2)
    for loader, world in zip(ranks, worlds("dp=2"), strict=True):
        loader.load_state_dict(ranks[0].state_dict())
        loader.on_world(world)
    taken += take(ranks, EXPECTED_STEPS - 5)

    assert taken == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_draws_nothing_from_torch_s_default_stream(num_workers):
    torch.manual_seed(5)
    before = torch.get_rng_state()

    (loader,) = loaders("dp=1", num_workers=num_workers)
    take([loader], 5)
    loader.on_world(worlds("dp=1")[0])
    take([loader], 1)

    assert torch.equal(torch.get_rng_state(), before)


class Breaking(Numbers):
    """Raises at one sample, while it is broken."""

    broken = True

    def __getitem__(self, index):
        if self.broken and index == 15:
            raise OSError("the disk is away for a moment")
        return index


# A script that tries again would have lost the batch and stood one step beside its neighbours.
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batch_that_raised_is_asked_for_again(num_workers):
    sampler = ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, shuffle=False)
    loader = ElasticLoader(Breaking(), sampler, num_workers=num_workers)
    take([loader], 1)
    with pytest.raises(OSError, match="the disk is away"):
        next(loader)
    assert sampler.step == 1

    loader.dataset.broken = False

    assert take([loader], 2) == [list(range(12, 24)), list(range(24, 36))]


# A rank that joins gets the cursor of the others and must go on with them.
def test_state_moves_the_cursor_to_another_loader(expected):
    (first,) = loaders("dp=1")
    (second,) = loaders("dp=1")
    take([second], 1)
    take([first], 6)

    second.load_state_dict(first.state_dict())

    assert take([second], 3) == expected[6:]


@pytest.mark.parametrize("size", [0, NUM_SAMPLES + 1])
def test_global_batch_that_the_dataset_cannot_fill_is_refused(size):
    with pytest.raises(LayoutError, match=str(size)):
        ElasticSampler(NUM_SAMPLES, size)


def test_global_batch_that_dp_does_not_divide_is_refused_and_the_old_rule_stays():
    sampler = ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, seed=3)
    before = next(iter(sampler))

    with pytest.raises(LayoutError, match="multiple of 5"):
        sampler.on_world(worlds("dp=5")[0])

    assert next(iter(sampler)) == before


# Going on in another order trains some samples twice and others never, without a word.
@pytest.mark.parametrize(
    ("other", "field"),
    [
        (ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, seed=4), "seed"),
        (ElasticSampler(NUM_SAMPLES, 6, seed=3), "global_batch_size"),
        (ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, seed=3, shuffle=False), "shuffle"),
        (ElasticSampler(NUM_SAMPLES - 1, GLOBAL_BATCH, seed=3), "num_samples"),
        (ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, seed=3, drop_last=True), "drop_last"),
    ],
)
def test_state_of_another_order_is_refused(other, field):
    sampler = ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, seed=3)
    other.step = 7

    with pytest.raises(LayoutError, match=field):
        sampler.load_state_dict(other.state_dict())

    assert sampler.step == 0


# It read epochs before the first one, in orders that no run has.
def test_state_with_a_step_before_the_first_is_refused():
    sampler = ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, seed=3)

    with pytest.raises(LayoutError, match="no step before the first"):
        sampler.load_state_dict({**sampler.state_dict(), "step": -1})

    assert sampler.step == 0


# What is read from somewhere may be anything: an order would be taken that the state does not say.
@pytest.mark.parametrize("lacks", ["step", "seed", "shuffle", "drop_last"])
def test_state_that_lacks_a_part_is_refused(lacks):
    sampler = ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, seed=3)
    state = sampler.state_dict()
    del state[lacks]

    with pytest.raises(LayoutError, match="as its state"):
        sampler.load_state_dict(state)


def test_where_nothing_remains_drop_last_changes_no_state():
    sampler = ElasticSampler(4 * GLOBAL_BATCH, GLOBAL_BATCH, seed=3)
    other = ElasticSampler(4 * GLOBAL_BATCH, GLOBAL_BATCH, seed=3, drop_last=True)

    sampler.load_state_dict({**other.state_dict(), "step": 7})

    assert sampler.step == 7


def draws(layout, num_steps, dataset=Noisy, seed=3, **options):
    """What every sample drew, by epoch and sample; one reading, whichever rank reads it."""
    seen = {}
    for world in worlds(layout):
        sampler = ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, seed=seed)
        loader = ElasticLoader(dataset(), sampler, **options)
        loader.on_world(world)
        for step in range(num_steps):
            index, *noise = next(loader)
            place = step * GLOBAL_BATCH + world.coordinate("dp_shard") * len(index)
            for i, *values in zip(index.tolist(), *(x.tolist() for x in noise), strict=True):
                seen.setdefault((place // NUM_SAMPLES, i), set()).add(tuple(values))
                place += 1
    return seen


# With the workers' seed equal on all ranks, data parallel ranks augmented alike: half the noise.
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("layout", ["dp=2", "dp=3", "dp=2,tp=2"])
def test_a_samples_noise_depends_on_neither_layout_nor_workers(layout, num_workers):
    alone = draws("dp=1", 5)

    assert draws(layout, 5, num_workers=num_workers) == alone
    assert len(set().union(*alone.values())) == 5 * GLOBAL_BATCH  # no two samples draw alike


def test_a_samples_noise_is_another_one_in_the_next_epoch():
    seen = draws("dp=1", 8)
    again = [index for epoch, index in seen if epoch == 1 and (0, index) in seen]

    assert again
    assert all(seen[0, index] != seen[1, index] for index in again)


# A dataset that fetches in batches would give its samples the noise of whoever shares the batch.
def test_datasets_that_fetch_in_batches_keep_a_samples_noise():
    assert draws("dp=2", 4, NoisyInBatches) == draws("dp=1", 4, NoisyInBatches)


def masked(items):
    return [float(torch.rand(()))] * len(items)


# Masks of language models are drawn here: the same on ranks of a replica, never on two replicas.
@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_a_collate_function_draws_follows_the_batch(num_workers):
    a, b, c, d = (
        next(loader)[0]
        for loader in loaders("dp=2,tp=2", collate_fn=masked, num_workers=num_workers)
    )

    assert len({a, b, c, d}) == 2
    assert (a, c) == (b, d)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reading_leaves_every_stream_of_the_process(num_workers):
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    expected = float(torch.rand(())), random.random(), np.random.random()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)

    draws("dp=1", 2, num_workers=num_workers)

    assert (float(torch.rand(())), random.random(), np.random.random()) == expected


def seed_own(worker):
    torch.manual_seed(100 + worker)


# Whoever seeds the workers has a rule of their own.
def test_a_script_that_seeds_its_workers_is_left_alone():
    seen = draws("dp=1", 1, num_workers=1, worker_init_fn=seed_own)
    torch.manual_seed(100)

    first = next(iter(ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, seed=3)))[0]
    ((drawn, _, _),) = seen[0, first]
    assert drawn == float(torch.rand(()))


# (seed << 32) + step did not fit, from 2**32 on; the order's own seed from 2**44 on.
@pytest.mark.parametrize("seed", [2**32, 2**63, 2**64 + 1, -1])
def test_a_seed_of_any_size_is_taken(seed):
    sampler = ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, seed=seed)
    loader = ElasticLoader(Noisy(), sampler, num_workers=1)

    assert len(next(loader)[0]) == GLOBAL_BATCH


@pytest.mark.parametrize(
    ("num_samples", "batch", "seed"), [(53, 2.0, 0), (53, True, 0), ("53", 4, 0), (53, 4, 1.5)]
)
def test_counts_and_seeds_of_another_type_are_refused(num_samples, batch, seed):
    with pytest.raises(LayoutError, match="expected"):
        ElasticSampler(num_samples, batch, seed=seed)


@pytest.mark.parametrize(
    "options", [{"batch_size": 4}, {"shuffle": True}, {"num_workers": -1}, {"no_such": 1}]
)
def test_options_that_the_loader_cannot_take_are_refused_at_once(options):
    with pytest.raises(LayoutError, match="DataLoader refuses"):
        ElasticLoader(Numbers(), ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH), **options)


def test_a_sampler_longer_than_its_dataset_is_refused():
    with pytest.raises(LayoutError, match="a sampler of 54 samples over a dataset of 53"):
        ElasticLoader(Numbers(), ElasticSampler(NUM_SAMPLES + 1, GLOBAL_BATCH))


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(range(NUM_SAMPLES))


# Its first batch raised a bare NotImplementedError.
def test_a_dataset_without_an_order_of_ours_is_refused_at_once():
    with pytest.raises(LayoutError, match="map-style"):
        ElasticLoader(Stream(), ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH))


def test_integers_of_numpy_are_counts():
    sampler = ElasticSampler(np.int64(NUM_SAMPLES), np.int32(GLOBAL_BATCH), seed=np.int64(3))

    assert next(iter(sampler)) == next(iter(ElasticSampler(NUM_SAMPLES, GLOBAL_BATCH, seed=3)))
