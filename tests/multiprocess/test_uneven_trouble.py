"""Trouble that meets some ranks only, and what build may hand over: all ranks end alike."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import dynatrain
import training_jobs as jobs
from dynatrain import BudgetError, ElasticLoader, ElasticSampler, TrainState
from sessions import refused, start

# --- trouble on some ranks -----------------------------------------------------------------------


def exceed_a_budget_on_one_rank(rank, world_size):
    session = start("dp=3", staging_budget_bytes=1500)
    text = refused(lambda: session.switch("dp=1"), BudgetError)
    report = session.switch("dp=3")  # the groups still stand
    return "staging budget" in text, report.epoch


# The ranks that send have another need of memory than the one that receives.
def test_budget_that_one_rank_exceeds_is_refused_on_all_at_once(pool):
    assert pool.run(exceed_a_budget_on_one_rank, world_size=3) == [(True, 1)] * 3


def ask_while_a_rank_idles(rank, world_size):
    session = start("dp=3")
    if not session.active:
        return list(session.steps(1))
    answers = []
    for _ in session.steps(1):
        answers = [session.fingerprint(), session.verify_replicas(), session.fingerprint()]
    return answers


def test_fingerprint_and_replicas_are_answered_while_a_rank_idles(pool):
    *active, idle = pool.run(ask_while_a_rank_idles)

    assert idle == []
    assert active[0] == active[1] == active[2]
    assert active[0][0] == active[0][2]
    assert active[0][1] == []


def take_batches_on_some_ranks(rank, world_size):
    dataset = TensorDataset(torch.arange(48.0))
    loader = ElasticLoader(dataset, ElasticSampler(48, 12))
    session = start("dp=4", keep={"data": loader})
    if rank != 2:
        next(loader)
    text = refused(lambda: session.switch("dp=2,tp=2"))
    if rank == 2:
        next(loader)
    session.switch("dp=2,tp=2")
    return "'data': 0" in text, next(loader)[0].numel()


# Data parallel neighbours would train on batches of different steps, without a word.
def test_loaders_that_stand_at_different_places_are_refused(pool):
    assert pool.run(take_batches_on_some_ranks) == [(True, 6)] * 4


# --- what build may hand over --------------------------------------------------------------------


def hold_a_gradient_in_fsdp(rank, world_size):
    session = start("dp=2")
    model = session.state.model
    for module in (*model.blocks, model):
        module.set_requires_gradient_sync(False)
    model(torch.ones(2, jobs.WIDTH)).sum().backward()
    assert all(param.grad is None for param in model.parameters())
    text = refused(lambda: session.switch("dp=1"))
    return "hold gradients" in text


# fully_shard keeps them out of sight between micro-batches; a switch would lose them.
def test_gradients_that_fully_shard_accumulates_are_refused(pool):
    assert pool.run(hold_a_gradient_in_fsdp, world_size=2) == [True] * 2


class Masked(jobs.Mlp):
    """Holds a tensor that is neither parameter nor buffer."""

    def __init__(self):
        super().__init__()
        self.masks = {"first": [torch.ones(3)]}


def build_with_loose_tensor(world):
    model = Masked()
    jobs.parallelize(model, world)
    return TrainState(model, torch.optim.AdamW(model.parameters(), foreach=False))


def forget_to_register(rank, world_size):
    text = refused(lambda: start("dp=2", build_with_loose_tensor, initialize=None))
    return "model.masks['first'][0]" in text, "register_buffer" in text


# A switch would leave it without memory; init tries, so that it shows before days of training.
def test_tensor_that_build_leaves_on_meta_is_refused(pool):
    assert pool.run(forget_to_register, world_size=2) == [(True, True)] * 2


def keep_a_teacher(rank, world_size):
    teacher = nn.Linear(3, 3)
    with torch.no_grad():
        teacher.weight.copy_(torch.arange(9.0).view(3, 3))

    def build(world):
        state = jobs.build(world)
        return TrainState([state.model, teacher], state.optimizer)

    def initialize(state, world):
        jobs.initialize(TrainState(state.modules[0]), world)

    session = start("dp=2", build, initialize=initialize)
    session.switch("tp=2")
    session.switch("dp=2")
    return float(teacher(torch.ones(1, 3)).sum() - teacher.bias.sum())


# A frozen teacher is made once and handed over for every layout.
def test_module_that_build_hands_over_again_keeps_its_weights(pool):
    assert pool.run(keep_a_teacher, world_size=2) == [pytest.approx(36.0)] * 2


def swap_the_order_of_axes(rank, world_size):
    order = ("pp", "dp_shard", "dp_replicate", "cp", "tp")
    session = start("dp=4")
    session.switch(dynatrain.Layout(dp_replicate=2, dp=2, order=order))
    total = torch.tensor([float(rank)])
    mesh = session.world.flat("dp_replicate", "dp_shard")
    torch.distributed.all_reduce(total, group=mesh.get_group())
    return mesh.size(), float(total)


def test_layout_may_put_dp_shard_before_dp_replicate(pool):
    assert pool.run(swap_the_order_of_axes) == [(4, 6.0)] * 4


class Stage(nn.Module):
    """A piece of a model of four layers that share one table."""

    def __init__(self, layers, table, tied=None):
        super().__init__()
        self.layers = nn.ModuleDict({str(layer): nn.Linear(4, 4) for layer in layers})
        for layer in self.layers.values():
            layer.register_buffer("table", table)
        if tied is not None:
            self.tied = tied


def build_stages(world):
    table, tied = torch.arange(6.0), nn.Parameter(torch.full((5,), 2.0))
    runs = world.layers(4)
    first, last = world.is_first_stage, world.is_last_stage
    modules = [
        Stage(run, table, tied if (number == 0 and first) or (number > 0 and last) else None)
        for number, run in enumerate(runs)
    ]
    if len(modules) == 1 and last:
        modules[0].tied = tied
    params = {id(param): param for module in modules for param in module.parameters()}
    return TrainState(modules, torch.optim.AdamW(params.values()))


def initialize_stages(state, world):
    for module in state.modules:
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            with torch.no_grad():
                tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) + len(name) + 0.5)


def switch_stages(rank, world_size):
    session = start("dp_replicate=2", build_stages, initialize=initialize_stages)
    before = session.fingerprint()
    fingerprints = []
    for layout in ("pp=2", "pp=2,vpp=2", "dp_replicate=2"):
        session.switch(layout)
        fingerprints.append(session.fingerprint())
    layers = session.state.modules[0].layers
    shared = len({id(layer.table) for layer in layers.values()})
    return [fingerprint == before for fingerprint in fingerprints], shared


# The first block of a rank names a shared buffer, and that is another block on each stage.
def test_buffers_shared_by_blocks_and_parameters_tied_in_a_rank_go_through_stages(pool):
    assert pool.run(switch_stages, world_size=2) == [([True, True, True], 1)] * 2
