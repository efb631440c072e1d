"""What is no tensor of the map: what ranks share travels once, what differs per rank beside it."""

from __future__ import annotations

import pytest
import torch

import dynatrain
import training_jobs as jobs
from dynatrain import LayoutError, TrainState, words

#: Far above all else that a switch publishes of values, random streams of four ranks included.
LARGE_BYTES = 4 << 20
SMALL_BYTES = 256 << 10


class Large:
    """An extra such as a moving average of the weights: one tensor, equal on all ranks."""

    def __init__(self):
        self.average = torch.zeros(LARGE_BYTES // 4, device="cpu")

    def state_dict(self):
        return {"average": self.average}

    def load_state_dict(self, state_dict):
        self.average = state_dict["average"]


def build_with_large_extra(world):
    state = jobs.build(world)
    return TrainState(state.model, state.optimizer, extra={"large": Large()})


def count_shared(session):
    """Bytes of everything that some ranks send to all from now on."""
    sizes, tree = [], session._part.engine.control._tree
    share = tree.share

    def counted(buffer, parts):
        sizes.append(buffer.nbytes)
        share(buffer, parts)

    tree.share = counted
    return sizes


def switch_with_large_extra(rank, world_size, source, target):
    session = dynatrain.init(
        build_with_large_extra, source, initialize=jobs.initialize, timeout_s=20
    )
    torch.manual_seed(1000 + rank)  # as a script does that draws another mask on each rank
    published, draws = [], None
    for step in session.steps(2):
        if step == 0:
            session.state.extra["large"].average += 3
            sizes = count_shared(session)
            session.switch(target)
            published = list(sizes)
        else:
            draws = torch.rand(1).item()
    average = session.state.extra["large"].average
    return sum(published), average.eq(3).all().item(), draws


# Every rank pickled all it had as one piece: with a random stream of its own in it no two pieces
# were equal, and 100 MB of extra went over the wire once for each rank.
# Ranks that differ in tp alone draw the same behind it, as many sets as there are others.
@pytest.mark.parametrize(("target", "num_draws"), [("tp=4", 1), ("dp=2,tp=2", 2)])
def test_extra_that_all_ranks_hold_does_not_travel(pool, target, num_draws):
    results = pool.run(switch_with_large_extra, "dp=4", target)

    assert all(arrived for _, arrived, _ in results)
    assert all(published < SMALL_BYTES for published, _, _ in results)
    assert len({draws for _, _, draws in results}) == num_draws


# What the source's ranks hold and a rank that joins does not is sent by one of them.
def test_extra_travels_once_to_ranks_that_join(pool):
    results = pool.run(switch_with_large_extra, "dp=2", "dp=4")

    assert all(arrived for _, arrived, _ in results)
    for published, _, _ in results[:2]:
        assert LARGE_BYTES <= published < LARGE_BYTES + SMALL_BYTES


def refuse_a_target_without_its_source(rank, world_size):
    def build(world):
        if world.enabled("tp"):
            return build_with_large_extra(world)
        return jobs.build(world)

    session = dynatrain.init(build, "dp=4", initialize=jobs.initialize, timeout_s=20)
    before = jobs.local_bits(session.state)
    with pytest.raises(LayoutError, match=r"extra\.large") as caught:
        session.switch("tp=4")
    was_intact = jobs.same_bits(before, jobs.local_bits(session.state))
    control = session._part.generation.control
    report = session.switch("dp=2")
    is_as_before = session._part.generation.control is control
    return "nothing was switched" in str(caught.value), was_intact, is_as_before, report.epoch


# Peers wait for the bytes of a rank that refuses: it moves them, and the groups of all live on.
def test_values_that_do_not_fit_are_refused_and_the_next_switch_finds_its_groups(pool):
    results = pool.run(refuse_a_target_without_its_source)
    pool.close()

    assert results == [(True, True, True, 1)] * 4


def build_with_own_extra(world):
    state = jobs.build(world)
    return TrainState(state.model, state.optimizer, extra={"own": Large()}, per_rank=["own"])


def switch_with_own_extra(rank, world_size):
    session = dynatrain.init(build_with_own_extra, "dp=4", initialize=jobs.initialize, timeout_s=20)
    session.state.extra["own"].average += rank
    sizes = count_shared(session)
    session.switch("tp=4")
    return sum(sizes), session.state.extra["own"].average.eq(rank).all().item()


# A loader's buffer of each rank went to all others, of which none had a use for it.
def test_what_belongs_to_its_rank_stays_there(pool):
    results = pool.run(switch_with_own_extra)

    assert all(arrived and published < SMALL_BYTES for published, arrived in results)


def count_agreements(rank, world_size, prepared):
    """How many exchanges each of two switches takes, and the bytes of the largest value in them."""
    session = dynatrain.init(
        jobs.build, "dp=4", initialize=jobs.initialize, timeout_s=20, verify=["sums", "fingerprint"]
    )
    sizes, agree = [], session._part.engine.control.agree

    def counted(phase, error, value, *combine):
        sizes.append(len(words.encode(value)))
        return agree(phase, error, value, *combine)

    session._part.engine.control.agree = counted
    found = []
    for target in ("tp=4", "dp=4"):
        if prepared:
            session.prepare(target)
        sizes.clear()
        session.switch(target)
        found.append((len(sizes), max(sizes)))
    return found


# Each costs a round over all ranks while training stands still: what was read, what has
# arrived, and the report. Before them, where nothing is prepared: the world, unless it was made
# before, what is built and read, slots, the plan, memory. All ranks hear every value: no rank may
# tell the others of each of its tensors.
@pytest.mark.parametrize(("prepared", "numbers"), [(True, [3, 3]), (False, [8, 7])])
def test_a_switch_agrees_a_few_times_over_small_values(pool, prepared, numbers):
    for found in pool.run(count_agreements, prepared):
        assert [number for number, _ in found] == numbers
        assert max(size for _, size in found) < 2048
