"""Whatever the layouts and wherever a job switches, an epoch has every sample exactly once."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import torch
from hypothesis import given
from hypothesis import strategies as st

from dynatrain import ElasticLoader, ElasticSampler
from training_jobs import worlds

MAX_RANKS = 6


class Numbers(torch.utils.data.Dataset):
    """Sample i is i."""

    def __init__(self, num_samples):
        self.num_samples = num_samples

    def __len__(self):
        return self.num_samples

    def __getitem__(self, index):
        return index


class Job:
    """One loader for each rank that is alive, as sessions hold them."""

    def __init__(self, make):
        self.make = make
        self.loaders = []
        self.dp = 0

    def switch(self, dp):
        """To `dp` ranks: those beyond idle and forget nothing, those new catch up."""
        ranks = worlds(f"dp={dp}")
        while len(self.loaders) < dp:
            self.loaders.append(self.make())
        for rank, loader in enumerate(self.loaders):
            if self.dp <= rank < dp:
                loader.load_state_dict(self.loaders[0].state_dict())
            loader.on_world(ranks[rank] if rank < dp else None)
        self.dp = dp

    def step(self):
        """The micro-batches of each rank."""
        return [next(loader) for loader in self.loaders[: self.dp]]


@st.composite
def jobs(draw):
    """Dataset, batch, and what is trained: (ranks, steps) between two switches."""
    num_samples = draw(st.integers(1, 25))
    batch = draw(st.integers(1, min(num_samples, 12)))
    uneven = draw(st.booleans())
    micro = draw(st.integers(1 + uneven, 13))
    sizes = [dp for dp in range(1, min(MAX_RANKS, batch) + 1) if uneven or batch % dp == 0]
    legs = draw(
        st.lists(st.tuples(st.sampled_from(sizes), st.integers(0, 6)), min_size=1, max_size=4)
    )
    return num_samples, batch, uneven, micro, legs


def check_pieces(ranks, most):
    """As many on every rank, which meet in each; none empty, none too large, none to spare."""
    (count,) = {len(pieces) for pieces in ranks}
    sizes = [len(piece) for pieces in ranks for piece in pieces]
    assert min(sizes) > 0
    assert max(sizes) <= most
    assert max(sum(map(len, pieces)) for pieces in ranks) > (count - 1) * most


@given(job=jobs(), seed=st.integers(), shuffle=st.booleans())
def test_an_epoch_has_every_sample_once_across_switches(job, seed, shuffle):
    num_samples, batch, uneven, micro, legs = job
    dataset = Numbers(num_samples)

    def make():
        options = {"seed": seed, "shuffle": shuffle, "uneven_shares": uneven}
        sampler = ElasticSampler(num_samples, batch, **options)
        return ElasticLoader(dataset, sampler, micro_batch_size=micro, collate_fn=list)

    ranks, read = Job(make), []
    for dp, num_steps in legs:
        ranks.switch(dp)
        for _ in range(num_steps):
            pieces = ranks.step()
            check_pieces(pieces, micro)
            shares = [list(chain(*rank)) for rank in pieces]
            sizes = sorted(map(len, shares))
            assert sum(sizes) == batch
            assert sizes[0] > 0
            assert sizes[-1] - sizes[0] <= uneven
            read += chain(*shares)

    whole = len(read) // num_samples
    for epoch in range(whole):
        samples = read[epoch * num_samples : (epoch + 1) * num_samples]
        assert Counter(samples) == Counter(range(num_samples))
    begun = Counter(read[whole * num_samples :])
    assert set(begun.values()) <= {1}


# A script that goes on from elsewhere sets it by hand; it was read once, when the sampler was made.
def test_order_follows_a_seed_that_is_set_later():
    changed, made = ElasticSampler(20, 5, seed=1), ElasticSampler(20, 5, seed=2)
    changed.seed = 2

    assert next(iter(changed)) == next(iter(made))
