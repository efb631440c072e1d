"""A switch that streams: the source is freed while the target arrives, and nothing else differs."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import dynatrain
import training_jobs as jobs
from dynatrain import (
    BudgetError,
    InternalError,
    LayoutError,
    TrainState,
    TransportError,
    _native,
)
from dynatrain.planning import Slot, model_of
from sessions import refused, start

#: A state of some MiB, which goes in several stages.
_WIDE, _STAGING = 384, 1 << 20
_TOUR = ["dp=2,tp=2", "tp=4", "dp=2", "dp=3", "dp=4"]


def tour(rank, world_size, mode):
    """Switches and trains in turn; the fingerprints, and what stands at the end."""
    session = start("dp=4", verify=("sums", "fingerprint"), mode=mode)
    told = []
    for step, layout in enumerate(_TOUR):
        if session.active:
            jobs.train_step(session.state, session.world, step)
        report = session.switch(layout)
        told.append((report.mode, report.fingerprint_before, report.fingerprint_after))
    whole = {
        name: each.full_tensor() if hasattr(each, "full_tensor") else each
        for name, each in session.state.model.state_dict().items()
    }
    return told, whole


# One switch of the two would train other numbers from there on.
def test_what_streams_arrives_bit_for_bit_and_trains_on_as_what_is_retained(pool):
    retained, streamed = (pool.run(tour, mode) for mode in ("retain", "stream"))

    for (of_retained, kept), (of_streamed, whole) in zip(retained, streamed, strict=True):
        assert [mode for mode, _, _ in of_retained] == ["retain"] * len(_TOUR)
        assert [mode for mode, _, _ in of_streamed] == ["stream"] * len(_TOUR)
        assert [rest for _, *rest in of_retained] == [rest for _, *rest in of_streamed]
        assert all(before == after for _, before, after in of_streamed)
        assert all(torch.equal(kept[name], whole[name]) for name in kept)


def build_wide(world):
    """Layers that are one storage each, of which a few stand side by side at a time."""
    model = nn.Sequential(*(nn.Linear(_WIDE, _WIDE, bias=False) for _ in range(16)))
    if world.enabled("tp"):
        styles = {str(n): RowwiseParallel() if n % 2 else ColwiseParallel() for n in range(16)}
        parallelize_module(model, world.mesh["tp"], styles)
    mesh = world.submesh("dp_replicate", "dp_shard")
    if mesh is not None:
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))


def start_wide(layout="dp=4", **options):
    return start(layout, build_wide, initialize=None, **options)


def prepared_wide(rank, world_size, targets):
    session = start_wide(mode="stream", staging_budget_bytes=_STAGING)
    return [
        (prepared.num_stages, prepared.staging_peak_bytes, prepared.extra_peak_bytes)
        for prepared in map(session.prepare, targets)
    ]


# What is planned on paper is what is done: else a job that was told to fit does not.
def test_memory_is_what_a_plan_on_paper_says(pool):
    targets = ["dp=2,tp=2", "tp=4", "dp=2"]
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(_WIDE, _WIDE, bias=False) for _ in range(16)))
    tp_dims = {f"{n}.weight": n % 2 for n in range(16)}
    described = replace(model_of(model, "none", tp_dims), slots=(Slot("param"),))
    live = pool.run(prepared_wide, targets)

    for target, found in zip(targets, live[0], strict=True):
        report = dynatrain.plan("dp=4", target, described, None, _STAGING, mode="stream")
        extra = max(rank.peak_bytes - rank.source_bytes for rank in report.ranks)
        staging = max(rank.staging_bytes for rank in report.ranks)
        assert found == (report.num_stages, staging, extra)


def memory_of(state):
    return {
        name: tensor.untyped_storage()
        for name, param in state.model.named_parameters()
        for tensor in [getattr(param, "_local_tensor", param)]
        if tensor.numel()
    }


def free_the_source(rank, world_size):
    session = start_wide(mode="stream")
    former = memory_of(session.state)
    prepared = session.prepare("dp=2,tp=2")
    target = session._part.targets.standing.target.state
    ahead = {name: each.nbytes() for name, each in memory_of(target).items()}
    lent = {each.data_ptr() for each in former.values()}
    taken = [n for name, n in ahead.items() if memory_of(target)[name].data_ptr() not in lent]
    assert not any(taken), taken
    held = prepared.held_bytes, sum(each.nbytes() for each in former.values())
    session.switch("dp=2,tp=2")
    present = memory_of(session.state)
    lent = {each.data_ptr() for each in present.values()}
    after = [each.nbytes() for each in former.values() if each.data_ptr() not in lent]
    return held, after, prepared, [each.nbytes() for each in present.values()]


# What was prepared used to hold the whole target ahead of the switch.
def test_the_source_is_freed_and_nothing_of_the_target_is_taken_ahead(pool):
    for (held, before), after, prepared, present in pool.run(free_the_source):
        assert before
        assert after
        assert not any(after)
        assert all(present)
        assert held - prepared.staging_peak_bytes < before / 2
        assert prepared.mode == "stream"


def hand_a_part_over_again(rank, world_size):
    frozen = nn.Linear(_WIDE, _WIDE, bias=False).requires_grad_(False)

    def build(world):
        made = build_wide(world)
        return TrainState([made.model, nn.ModuleDict({"frozen": frozen})], made.optimizer)

    session = start("dp=4", build, initialize=None, mode="stream", verify=("fingerprint",))
    before = frozen.weight.detach().clone()
    session.switch("dp=2,tp=2")
    return torch.equal(frozen.weight, before)


# Its memory is that of the source and of the target, and was freed with the one.
def test_what_build_hands_over_again_keeps_its_memory(pool):
    assert all(pool.run(hand_a_part_over_again))


class Refusing:
    """An extra that takes its values until it is told not to."""

    refuses = False

    def state_dict(self):
        return {"number": 3}

    def load_state_dict(self, state):
        if self.refuses:
            raise ValueError("this one takes nothing")


def refuse_values(rank, world_size):
    def build(world):
        made = jobs.build(world)
        return TrainState(made.model, made.optimizer, extra={"refusing": Refusing()})

    session = start("dp=4", build, mode="stream")
    Refusing.refuses = True
    text = refused(lambda: session.switch("dp=2,tp=2"), dynatrain.Error)
    return text, session.layout, all(each.nbytes() for each in memory_of(session.state).values())


# What can be refused is refused while there is a way back.
def test_values_that_are_refused_leave_the_source(pool):
    for text, layout, whole in pool.run(refuse_values):
        assert "refusing" in text
        assert str(layout) == "dp=4"
        assert whole


def die_on_the_way(rank, world_size):
    session = start("dp=4", mode="stream")
    executor = session._part.engine.lanes["host"].executor

    class Dying:
        def __getattr__(self, name):
            return getattr(executor, name)

        def run(self, *args, **options):
            if rank == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return executor.run(*args, **options)

    lane = session._part.engine.lanes["host"]
    object.__setattr__(lane, "executor", Dying())
    with pytest.raises(TransportError) as caught:
        session.switch("dp=2,tp=2")
    return str(caught.value), caught.value.retryable, refused(lambda: session.state, InternalError)


# The others would have gone on with parts of two states.
def test_who_survives_a_death_on_the_way_may_not_train_on(pool):
    for rank, told in enumerate(pool.run(die_on_the_way, may_die=[2])):
        if rank == 2:
            continue
        text, retryable, later = told
        assert "have landed here" in text
        assert "last checkpoint" in text
        assert not retryable
        assert "failed before the new state stood" in later


def choose(rank, world_size, budget):
    session = start_wide(mode="auto", memory_budget_bytes=budget, staging_budget_bytes=_STAGING)
    return session.switch("dp=2,tp=2").mode


def needs(rank, world_size):
    found = {}
    for mode in ("retain", "stream"):
        session = start_wide(mode=mode, staging_budget_bytes=_STAGING)
        found[mode] = session.prepare("dp=2,tp=2").extra_peak_bytes
        session.close()
    return found


# Either wrong: memory that is there is not used, or the job dies of what is not.
def test_auto_retains_where_there_is_room_and_streams_elsewhere(pool):
    found = pool.run(needs)[0]
    assert found["stream"] < found["retain"]

    assert set(pool.run(choose, 2 * found["retain"])) == {"retain"}
    assert set(pool.run(choose, found["stream"] + 4096)) == {"stream"}


def choose_by_usual_staging(rank, world_size, *budget):
    mode = "auto" if budget else "retain"
    session = start_wide(mode=mode, memory_budget_bytes=budget[0] if budget else None)
    found = session.prepare("dp=2,tp=2").extra_peak_bytes
    return found, session.switch("dp=2,tp=2").mode


# It streamed, and gave up the way back, for want of staging that no switch of this state takes.
def test_auto_wants_no_more_staging_than_the_switch_can_take(pool):
    needed = max(extra for extra, _ in pool.run(choose_by_usual_staging))
    with_gaps = needed + (64 << 10)

    assert {mode for _, mode in pool.run(choose_by_usual_staging, with_gaps)} == {"retain"}
    assert {mode for _, mode in pool.run(choose_by_usual_staging, needed - 4096)} == {"stream"}


def have_no_room(rank, world_size, mode):
    options = {"memory_budget_bytes": _STAGING + 1000, "staging_budget_bytes": _STAGING}
    session = start_wide(mode=mode, **options)
    text = refused(lambda: session.switch("dp=2,tp=2"), BudgetError)
    session.state.model(torch.ones(2, _WIDE)).sum().backward()
    return text


@pytest.mark.parametrize("mode", ["stream", "auto"])
def test_what_does_not_fit_even_in_parts_is_refused_by_its_number(pool, mode):
    for text in pool.run(have_no_room, mode):
        assert f"{_STAGING + 1000} bytes" in text


def lack_memory_on_the_way(rank, world_size):
    session = start_wide("tp=4", mode="stream", staging_budget_bytes=_STAGING)
    before = dynatrain.fingerprint()
    usual = _native.available_address_bytes
    if rank == 1:
        _native.available_address_bytes = lambda: 1000
    try:
        text = refused(lambda: session.switch("dp=2,tp=2"), BudgetError)
    finally:
        _native.available_address_bytes = usual
    return text, dynatrain.fingerprint() == before, session.switch("dp=2,tp=2").mode


# It voted, and the rank's allocator ended the state of all of them.
def test_a_stream_that_a_rank_has_no_memory_for_is_refused_before_its_vote(pool):
    for text, is_intact, mode in pool.run(lack_memory_on_the_way):
        assert "on rank 1" in text
        assert "1000 bytes are left" in text
        assert is_intact
        assert mode == "stream"


def ask_for_nonsense(rank, world_size):
    return [
        refused(lambda: start("dp=4", mode="both")),
        refused(lambda: start("dp=4", mode="stream", transport="shared_memory")),
    ]


def test_modes_that_there_are_not_are_refused(pool):
    for unknown, of_blocks in pool.run(ask_for_nonsense):
        assert "'retain', 'stream', 'auto'" in unknown
        assert "shared_memory" in of_blocks


def test_modes_that_differ_are_refused(pool):
    assert all("mode" in text for text in pool.run(differ))


def differ(rank, world_size):
    return refused(lambda: start("dp=4", mode="stream" if rank else "retain"), LayoutError)


def flat_buffers(rank, world_size):
    """One buffer holds a weight that is cut and one that is not; some bytes are nobody's."""

    def build(world):
        made = build_wide(world)
        model = made.model
        with torch.device(model[0].weight.device):
            flat = torch.zeros(3 * 64)
        extra = nn.Module()
        extra.first = nn.Parameter(flat[:64])
        extra.second = nn.Parameter(flat[100:164])
        return TrainState([model, nn.ModuleDict({"flat": extra})], made.optimizer)

    def initialize(state, world):
        with torch.no_grad():
            for number, param in enumerate(state.model[1].parameters()):
                param.fill_(number + 1.5)

    session = start("dp=4", build, initialize=initialize, mode="stream", verify=("fingerprint",))
    session.switch("dp=2,tp=2")
    first, second = session.state.model[1].flat.first, session.state.model[1].flat.second
    whole = torch.empty(0).set_(first.untyped_storage())
    return float(first.sum()), float(second.sum()), float(whole.sum())


def test_tensors_that_share_a_storage_arrive_and_what_is_nobodys_is_zeros(pool):
    for first, second, whole in pool.run(flat_buffers):
        assert (first, second) == (64 * 1.5, 64 * 2.5)
        assert whole == first + second
