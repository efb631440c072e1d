"""Whatever a sampler is made of and asked: whole batches of an order, or a LayoutError."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from dynatrain import ElasticSampler, Layout, LayoutError

anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5)
)
sizes = st.integers(-1, 40) | st.integers(1) | anything
flags = st.booleans() | anything
samplers = st.fixed_dictionaries(
    {"num_samples": sizes, "global_batch_size": sizes},
    optional={"seed": anything, "shuffle": flags, "drop_last": flags, "uneven_shares": flags},
)
good = st.fixed_dictionaries(
    {"num_samples": st.integers(8, 40), "global_batch_size": st.integers(1, 8)},
    optional={
        "seed": st.integers(),
        "shuffle": st.booleans(),
        "drop_last": st.booleans(),
        "uneven_shares": st.booleans(),
    },
)
STATE = ("step", "num_samples", "global_batch_size", "seed", "shuffle", "drop_last")


@given(samplers)
def test_any_sampler_reads_whole_batches_or_is_refused(arguments):
    with suppress(LayoutError):
        sampler = ElasticSampler(**arguments)
        for batch in islice(sampler, 2 if sampler.global_batch_size < 100 else 0):
            assert len(batch) == sampler.global_batch_size
            assert all(0 <= number < sampler.num_samples for number in batch)


@given(good)
def test_an_epoch_has_every_sample_at_most_once(arguments):
    sampler = ElasticSampler(**arguments)
    whole_batches = sampler.num_samples // sampler.global_batch_size

    read = [number for batch in islice(sampler, whole_batches) for number in batch]

    assert len(set(read)) == len(read)


@given(good, st.integers(1, 9), st.integers(1, 9))
def test_any_layout_shares_out_whole_batches_or_is_refused(arguments, dp_shard, dp_replicate):
    sampler, layout = ElasticSampler(**arguments), Layout(dp=dp_shard, dp_replicate=dp_replicate)
    with suppress(LayoutError):
        sampler.check_layout(layout)
        shares = []
        for rank in range(layout.world_size):
            own = ElasticSampler(**arguments)
            own.on_world(Standing(layout, rank))
            shares += next(iter(own))
        assert shares == next(iter(sampler))


class Standing:
    """A place in a layout, as a world tells it."""

    def __init__(self, layout, rank):
        self.layout, self.rank = layout, rank

    def size(self, axis):
        return self.layout.size(axis)

    def coordinate(self, axis):
        return self.layout.coordinate(self.rank, axis)


@given(
    good,
    st.dictionaries(st.sampled_from(STATE) | st.text(max_size=3), anything)
    | anything
    | st.fixed_dictionaries(dict.fromkeys(STATE, anything)),
)
def test_any_state_is_taken_whole_or_refused(arguments, state):
    sampler = ElasticSampler(**arguments)
    before = sampler.state_dict()
    try:
        sampler.load_state_dict(state)
    except LayoutError:
        assert sampler.state_dict() == before
    else:
        assert sampler.step == state["step"]
        assert {**sampler.state_dict(), "step": 0} == {**before, "step": 0}


@given(good, st.integers(0, 1 << 70))
def test_a_state_is_read_back(arguments, step):
    sampler = ElasticSampler(**arguments)

    sampler.load_state_dict({**sampler.state_dict(), "step": step})

    assert sampler.state_dict()["step"] == step
    assert sampler.epoch_of(step) >= 0


@given(good, anything)
def test_a_loss_weight_is_a_share_of_a_batch_or_refused(arguments, num_samples):
    sampler = ElasticSampler(**arguments)
    with suppress(LayoutError):
        assert 0 < sampler.loss_weight(num_samples) <= 1
    with suppress(LayoutError):
        assert isinstance(sampler.num_steps(num_samples), int)
