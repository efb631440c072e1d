"""``ZeroRedundancyOptimizer``: slots of whole parameters on one replica each go to their owners."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import dynatrain
import training_jobs as jobs
from dynatrain import TrainState
from dynatrain.adapters.torch.undoing import TorchStepGuard
from sessions import TIMEOUT_S, refused

ADAMW = (torch.optim.AdamW, {"lr": 0.01, "foreach": False})
SGD = (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "foreach": False})
STEPS_IN_A_LAYOUT = 2
#: What nobody trains with, in one process: the optimizer itself, over whole parameters.
UNDISTURBED = "dp=1"


class Historic(torch.optim.Optimizer):
    """Keeps lists and numbers for each parameter, and a number for all of them."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})
        self.state["steps"] = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.state["steps"] += 1
        for group in self.param_groups:
            for param in group["params"]:
                kept = self.state[param]
                history = kept.setdefault("history", [param.clone(), 0])
                history[0].lerp_(param.grad, 0.5)
                history[1] += 1
                param.sub_(history[0] * (group["lr"] / history[1]))


HISTORIC = (Historic, {"lr": 0.01})


def building(optimizer, **options):
    """A build whose replicas divide the optimizer's slots, and whose shards have it as it is."""
    kind, defaults = optimizer

    def build(world):
        model = jobs.Mlp()
        divided = world.enabled("dp_replicate") and not world.enabled("dp_shard")
        if not divided:
            jobs.parallelize(model, world)
        groups = [
            {"params": [p for p in model.parameters() if p.dim() > 1], "lr": 0.02},
            {"params": [p for p in model.parameters() if p.dim() <= 1]},
        ]
        if divided:
            given = {"process_group": world.group("dp_replicate"), **options}
            made = ZeroRedundancyOptimizer(groups, kind, **given, **defaults)
        else:
            made = kind(groups, **defaults)
        return TrainState(model, made, torch.optim.lr_scheduler.ExponentialLR(made, 0.75))

    return build


class Replicas:
    """The model as a step calls it, wrapped anew in every world."""

    def on_world(self, world):
        self.model = None
        if world is not None:
            self.model = dynatrain.current_session().state.model
            if world.enabled("dp_replicate") and not world.enabled("dp_shard"):
                group = world.group("dp_replicate")
                self.model = DistributedDataParallel(self.model, process_group=group)


def train_step(state, replicas, step):
    """The same batch on every rank, so that every layout has the same gradients to the bit."""
    batch = torch.randn(6, jobs.WIDTH, generator=torch.Generator().manual_seed(step))
    replicas.model(batch).square().mean().backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.scheduler.step()


def keeper(optimizer):
    """What has the slots of this rank, by torch's own attribute."""
    return getattr(optimizer, "optim", optimizer)


def whole(value):
    """A copy of a slot, whole where it is a DTensor, which is collective."""
    if isinstance(value, list):
        return [whole(item) for item in value]
    return jobs.whole(value) if torch.is_tensor(value) else value


def slots_here(state):
    """Slots of this rank by name."""
    names = {id(param): name for name, param in state.model.named_parameters()}
    return {
        f"{names[id(param)]}.{slot}": whole(value)
        for param, slots in keeper(state.optimizer).state.items()
        if isinstance(param, torch.Tensor)
        for slot, value in slots.items()
    }


def told(state):
    """All that a rank has of a state: parameters and options, which all have, and its slots."""
    shared = {name: jobs.whole(param) for name, param in state.model.named_parameters()}
    for number, group in enumerate(state.optimizer.param_groups):
        shared[f"options {number}"] = {k: v for k, v in group.items() if k != "params"}
    shared["steps"] = keeper(state.optimizer).state.get("steps")
    shared["scheduler"] = state.scheduler.state_dict()
    return shared, slots_here(state)


VERIFIED = {"verify": ("sums", "fingerprint")}


class How(NamedTuple):
    """The step that trains first, and what a session is given."""

    first_step: int = 0
    given: dict = VERIFIED


AT_ONCE = How()


def started(optimizer, layout, replicas, given=VERIFIED, **options):
    """A session, with what is ``given`` to it, of an optimizer of these options."""
    return dynatrain.init(
        building(optimizer, **options),
        layout,
        initialize=jobs.initialize,
        keep={"replicas": replicas},
        timeout_s=TIMEOUT_S,
        **given,
    )


def follow(rank, world_size, optimizer, path, how=AT_ONCE):
    """Trains in each layout of a path; tells this rank's state at the end of each, and the bytes.

    Where the path goes on ahead of the first step, nothing is trained there.
    """
    replicas = Replicas()
    session = started(optimizer, path[0], replicas, how.given)
    ends, moved = {}, []
    for step in session.steps(STEPS_IN_A_LAYOUT * len(path)):
        if step >= how.first_step:
            train_step(session.state, replicas, step)
        at, is_last = divmod(step + 1, STEPS_IN_A_LAYOUT)
        if not is_last:
            ends[at - 1] = told(session.state)
            if at < len(path):
                moved.append(session.switch(path[at]).bytes_moved)
    session.close()
    return ends, moved


def joined(of_ranks):
    """What the ranks of a layout have together, and which of them have each slot."""
    owners = {}
    found = dict(of_ranks[0][0])
    for rank, (shared, slots) in enumerate(of_ranks):
        assert differences(shared, of_ranks[0][0]) == []
        found |= slots
        for name in slots:
            owners.setdefault(name, []).append(rank)
    return found, owners


def same(one, other):
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if torch.is_tensor(one) else one == other


def differences(found, expected):
    """Names of what is not the same to the bit."""
    names = found.keys() | expected.keys()
    return sorted(n for n in names if not same(found.get(n), expected.get(n)))


def check_undisturbed(pool, optimizer, path, how=AT_ONCE):
    """Trains along a path, and by the optimizer itself: the same at the end of each layout."""
    results = pool.run(follow, optimizer, path, how, timeout_s=100)
    alone = [UNDISTURBED] * len(path)
    expected, _ = pool.run(follow, optimizer, alone, How(how.first_step), timeout_s=100)[0]
    for number, layout in enumerate(path):
        size = dynatrain.Layout.parse(layout).world_size
        found, owners = joined([ends[number] for ends, _ in results[:size]])
        assert differences(found, joined([expected[number]])[0]) == []
        if "replicate" in layout:
            assert all(len(ranks) == 1 for ranks in owners.values())


# One slot that stays behind, or one option, and the run is another one from here on.
@pytest.mark.parametrize(
    ("optimizer", "path"),
    [
        (ADAMW, ["dp_replicate=4", "dp_replicate=2", "dp_replicate=4"]),
        (SGD, ["dp_replicate=2", "dp_replicate=4", "dp_replicate=2"]),
        (ADAMW, ["dp_replicate=4", "dp=2", "dp_replicate=2", "dp=4", "dp_replicate=4"]),
        (SGD, ["dp=4", "dp_replicate=4", "dp=2"]),
        (ADAMW, ["dp_replicate=4", "dp=1", "dp_replicate=4"]),
        (HISTORIC, ["dp_replicate=4", "dp_replicate=2", "dp=2", "dp_replicate=4"]),
    ],
)
def test_a_run_through_divided_slots_is_the_undisturbed_one(pool, optimizer, path):
    check_undisturbed(pool, optimizer, path)


# Each frees, or reads in place, what a rank has as one of many owners elsewhere.
@pytest.mark.parametrize("given", [{"mode": "stream"}, {"transport": "shared_memory"}])
def test_divided_slots_go_the_other_ways_of_a_switch(pool, given):
    path = ["dp_replicate=4", "dp_replicate=2", "dp=4", "dp_replicate=4"]

    check_undisturbed(pool, ADAMW, path, How(given=given))


# Slots come with the first step: their owners of then make them, wherever the state has been.
@pytest.mark.parametrize("optimizer", [ADAMW, SGD])
def test_slots_that_are_not_there_yet_are_made_by_their_later_owners(pool, optimizer):
    path = ["dp_replicate=4", "dp_replicate=2", "dp=2", "dp_replicate=4"]

    check_undisturbed(pool, optimizer, path, How(3 * STEPS_IN_A_LAYOUT))


# ZeRO is there to keep the slots of a parameter once: replicas that got all would not notice.
def test_slots_go_to_their_owner_and_to_nobody_else(pool):
    results = pool.run(follow, ADAMW, ["dp_replicate=4", "dp_replicate=2"], timeout_s=100)

    for at, size in enumerate((4, 2)):
        kept = [name for ends, _ in results[:size] for name in ends[at][1]]
        assert len(kept) == len(set(kept)) > 0
    sources = [ends[0][1] for ends, _ in results]
    gained = [
        value.nbytes
        for rank, (ends, _) in enumerate(results[:2])
        for name, value in ends[1][1].items()
        if name not in sources[rank]
    ]
    assert {moved[0] for _, moved in results} == {sum(gained)}
    assert sum(gained) > 0


def save_after_a_switch(rank, world_size):
    replicas = Replicas()
    session = started(ADAMW, "dp_replicate=4", replicas)
    for step in range(STEPS_IN_A_LAYOUT):
        train_step(session.state, replicas, step)
    session.switch("dp_replicate=2")
    saved = None
    if session.active:
        session.state.optimizer.consolidate_state_dict(to=1)
        if rank == 1:
            saved = session.state.optimizer.state_dict()["state"]
    session.close()
    return saved


# torch sends them from the device that parameters had when it was made: then there was no memory.
def test_torch_gathers_slots_after_a_switch(pool):
    _, saved, *_ = pool.run(save_after_a_switch, timeout_s=60)
    expected, _ = pool.run(follow, ADAMW, [UNDISTURBED], timeout_s=60)[0]

    in_order = sorted(jobs.Mlp().named_parameters(), key=lambda pair: pair[1].dim() <= 1)
    found = {
        f"{in_order[number][0]}.{slot}": value
        for number, slots in saved.items()
        for slot, value in slots.items()
    }
    assert differences(found, expected[0][1]) == []


def take_back_a_step(rank, world_size):
    replicas = Replicas()
    session = started(ADAMW, "dp_replicate=4", replicas)
    train_step(session.state, replicas, 0)
    guard = TorchStepGuard(session.state, torch.device("cpu"), keeps_previous=True)
    before = told(session.state)
    guard.begin()
    train_step(session.state, replicas, 1)
    guard.end()
    stepped = told(session.state)
    gone_back = guard.go_back()
    after = told(session.state)
    session.close()
    differing = [differences({**a[0], **a[1]}, {**after[0], **after[1]}) for a in (before, stepped)]
    return gone_back, *map(len, differing)


# An elastic job takes back a step that others did not end: owners have written slots by then.
def test_a_step_of_divided_slots_can_be_taken_back(pool):
    for gone_back, from_before, from_stepped in pool.run(take_back_a_step, timeout_s=60):
        assert gone_back
        assert from_before == 0 < from_stepped


def begin(rank, world_size, options):
    return refused(lambda: started(ADAMW, "dp_replicate=4", Replicas(), **options))


# Parameters in torch's buckets, slots that come with DDP's, owners who idle: none goes by itself.
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parameters_as_bucket_view": True}, "has parameters_as_bucket_view=True"),
        ({"overlap_with_ddp": True}, "has overlap_with_ddp=True"),
        ({"process_group": None}, "divides its slots among all ranks of the job"),
    ],
)
def test_what_cannot_travel_is_refused_before_the_first_step(pool, options, words):
    for text in pool.run(begin, options, timeout_s=60):
        assert text.startswith("adapters: optimizer 0 (ZeroRedundancyOptimizer) ")
        assert words in text
        assert "nothing was started" in text


def begin_with_a_hook(rank, world_size):
    def build(world):
        state = building(ADAMW)(world)
        state.optimizer.register_state_dict_post_hook(lambda optimizer, saved: saved)
        return state

    return refused(lambda: dynatrain.init(build, "dp_replicate=4", timeout_s=TIMEOUT_S))


# Only a rank that has gathered all slots can ask what such a hook writes.
def test_a_hook_of_its_saved_state_is_refused(pool):
    for text in pool.run(begin_with_a_hook, timeout_s=60):
        assert "has hooks of its state_dict()" in text


def hook_the_part_of_this_rank(rank, world_size):
    replicas = Replicas()
    session = started(ADAMW, "dp_replicate=4", replicas)
    session.state.optimizer.optim.register_step_post_hook(lambda *_: None)
    text = refused(lambda: session.switch("dp_replicate=2"))
    session.close()
    return text


# What a script sets on the inner optimizer is gone with it, as what it sets on any other one.
def test_a_hook_on_the_part_of_a_rank_is_refused(pool):
    for text in pool.run(hook_the_part_of_this_rank, timeout_s=60):
        assert "optimizer.optim.register_step_post_hook(): 1 as the script has left them" in text


def become_another(rank, world_size):
    def build(world):
        kind = ADAMW if world.enabled("dp_shard") else SGD
        return building(kind)(world)

    replicas = Replicas()
    session = dynatrain.init(
        build, "dp_replicate=4", initialize=jobs.initialize, keep={"replicas": replicas}
    )
    train_step(session.state, replicas, 0)
    text = refused(lambda: session.switch("dp=4"))
    session.close()
    return text


# Looked through, one divided optimizer is not like any other: what it divides is asked for.
def test_the_optimizer_that_is_divided_must_be_that_of_the_target(pool):
    for text in pool.run(become_another, timeout_s=60):
        assert "is a torch.optim.adamw.AdamW" in text
        assert "expected a torch.optim.sgd.SGD" in text
