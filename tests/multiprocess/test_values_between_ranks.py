"""Values that ranks hold: they follow names over layouts, and contradictions are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

import dynatrain
import training_jobs as jobs
from dynatrain import LayoutError, TrainState
from held_values import Notes

NUM_LAYERS = 4


class Scaled(jobs.Block):
    """A block with a history behind torch's hook."""

    def __init__(self):
        super().__init__()
        self.largest = []

    def get_extra_state(self):
        return {"largest": self.largest}

    def set_extra_state(self, state):
        self.largest = state["largest"]


class Container(torch.optim.Optimizer):
    """One optimizer for each part of the model, made of names, as torchtitan's is."""

    def __init__(self, parts):
        self.optimizers = [
            torch.optim.AdamW(list(part.named_parameters()), lr=0.1, foreach=False)
            for part in parts
        ]
        params = [param for part in parts for param in part.parameters()]
        super().__init__(params, {"lr": 0.1})

    def step(self, closure=None):
        for optimizer in self.optimizers:
            optimizer.step()


def staged(world):
    """Pipeline stages of scaled blocks under a container of optimizers."""
    stages = []
    for layers in world.layers(NUM_LAYERS):
        stage = nn.Module()
        stage.layers = nn.ModuleDict({str(layer): Scaled() for layer in layers})
        jobs_shard(stage, world)
        stages.append(stage)
    container = Container(stages)
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 2) for o in container.optimizers[:1]]
    return TrainState(stages, container, schedulers)


def jobs_shard(stage, world):
    mesh = world.submesh("dp_replicate", "dp_shard")
    if mesh is not None:
        torch.distributed.fsdp.fully_shard(stage, mesh=mesh)


def blocks_of(state):
    return {name: block for stage in state.modules for name, block in sorted(stage.layers.items())}


def step_by_hand(state):
    for stage in state.modules:
        for param in stage.parameters():
            param.grad = param.detach() * 0.25 + 0.125
    for optimizer in state.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    for inner in getattr(state.optimizer, "optimizers", ()):
        inner.zero_grad()


def follow_stages(rank, world_size, path):
    torch.manual_seed(0)
    session = dynatrain.init(staged, path[0], timeout_s=25, verify=("sums", "fingerprint"))
    for name, block in blocks_of(session.state).items():
        block.largest = [float(name)]
    names_fit, counts, equal = [], [], []
    for number, target in enumerate([*path[1:], None]):
        step_by_hand(session.state)
        for optimizer in session.state.optimizer.optimizers:
            counts += [int(slots["step"]) == number + 1 for slots in optimizer.state.values()]
        for stage, optimizer in zip(
            session.state.modules, session.state.optimizer.optimizers, strict=True
        ):
            own = [name for name, _ in stage.named_parameters()]
            names_fit.append(optimizer.param_groups[0]["param_names"] == own)
        if target is not None:
            report = session.switch(target)
            equal.append(report.fingerprint_before == report.fingerprint_after)
    largest = {name: block.largest for name, block in blocks_of(session.state).items()}
    return names_fit, counts, equal, largest


# dp -> pp gave each stage the whole model's names, so that a checkpoint filed the moments of one
# stage under another's; pp -> anything was refused; the container's own state was empty.
@pytest.mark.parametrize("path", [["dp=2", "pp=2", "dp=2"], ["pp=2", "pp=2,vpp=2", "dp=2"]])
def test_stages_take_their_own_names_moments_and_histories(pool, path):
    results = pool.run(follow_stages, path, world_size=2)

    for names_fit, counts, equal, largest in results:
        assert all(names_fit)
        assert counts
        assert all(counts)
        assert equal == [True, True]
        assert largest == {str(n): [float(n)] for n in range(NUM_LAYERS)}


def grouped(keep_empty):
    """Stages of which one has no vectors, and a group for vectors."""

    def build(world):
        stages = []
        for layers in world.layers(2):
            stage = nn.Module()
            stage.layers = nn.ModuleDict({str(n): nn.Linear(3, 3, bias=n == 0) for n in layers})
            stages.append(stage)
        params = [param for stage in stages for param in stage.parameters()]
        groups = [
            {"params": [p for p in params if p.dim() == 1], "lr": 0.2},
            {"params": [p for p in params if p.dim() == 2], "lr": 0.4},
        ]
        kept = [group for group in groups if group["params"] or keep_empty]
        optimizer = torch.optim.SGD(kept, momentum=0.9, foreach=False)
        return TrainState(stages, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5))

    return build


def follow_groups(rank, world_size, keep_empty):
    torch.manual_seed(0)
    session = dynatrain.init(grouped(keep_empty), "dp=2", timeout_s=25)
    step_by_hand(session.state)
    session.state.scheduler.step()
    try:
        session.switch("pp=2")
    except LayoutError as error:
        return str(error)
    step_by_hand(session.state)
    session.state.scheduler.step()
    return [group["lr"] for group in session.state.optimizer.param_groups]


# A group that a stage has no parameters of was left out, and the scheduler's next step raised.
def test_group_left_out_on_a_stage_is_refused_and_an_empty_one_goes_on(pool):
    for text in pool.run(follow_groups, False, world_size=2):
        assert "scheduler" in text
        assert '"params": []' in text
        assert "intact" in text
    assert pool.run(follow_groups, True, world_size=2) == [[0.1, 0.2], [0.1, 0.2]]


class History(torch.optim.Optimizer):
    """Steps along the mean of the last two gradients, kept in a list."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state[param]
                state["last"] = [param.grad.clone(), *state.get("last", [])[:1]]
                param -= group["lr"] * sum(state["last"]) / len(state["last"])


class Shadow:
    """A moving average by name, of whatever a parameter is: a DTensor where it is sharded."""

    def __init__(self, module):
        self.shadow = {name: p.detach().clone() for name, p in module.named_parameters()}

    def update(self, module):
        for name, param in module.named_parameters():
            self.shadow[name].lerp_(param.detach(), 0.5)

    def state_dict(self):
        return {"shadow": self.shadow, "decay": 0.5}

    def load_state_dict(self, state_dict):
        self.shadow = state_dict["shadow"]


def build_with_average(world):
    model = jobs.Mlp()
    jobs.parallelize(model, world)
    return TrainState(model, History(model.parameters()), extra={"ema": Shadow(model)})


def follow_average(rank, world_size, path):
    session = dynatrain.init(
        build_with_average,
        path[0],
        initialize=jobs.initialize,
        timeout_s=25,
        verify=("sums", "fingerprint"),
    )
    shadow = session.state.extra["ema"].shadow
    for name, param in session.state.model.named_parameters():
        shadow[name].copy_(param.detach())
    ends = []
    for number in range(len(path)):
        step_by_hand(session.state)
        session.state.extra["ema"].update(session.state.model)
        if number + 1 < len(path):
            report = session.switch(path[number + 1])
            ends.append(report.fingerprint_before == report.fingerprint_after)
    meshes = {
        param.device_mesh is session.state.extra["ema"].shadow[name].device_mesh
        for name, param in session.state.model.named_parameters()
        if isinstance(param, DTensor)
    }
    average = {n: jobs.whole(t) for n, t in session.state.extra["ema"].shadow.items()}
    weights = {n: jobs.whole(p) for n, p in session.state.model.named_parameters()}
    return average, weights, ends, meshes


# A list of shards was taken from one rank for all; DTensors of an extra kept the mesh of the layout
# before, and the next step mixed the two.
def test_lists_of_shards_and_averages_of_shards_are_cut_anew(pool):
    path = ["dp=4", "dp=2,tp=2", "tp=4", "dp_replicate=2,dp=2"]
    switched = pool.run(follow_average, path, timeout_s=50)
    plain = pool.run(follow_average, ["dp=1"] * 4, world_size=1)

    for average, weights, ends, meshes in (*switched, *plain):
        assert jobs.differences(plain[0][0], average) == []
        assert jobs.differences(plain[0][1], weights) == []
        assert all(ends)
        assert meshes <= {True}


class Local(Shadow):
    """An average of this rank's shards as plain tensors."""

    def __init__(self, module):
        self.shadow = {n: p.to_local().clone() for n, p in module.named_parameters()}


class Blocked(torch.optim.SGD):
    """Keeps one number for each block of its shard."""

    def step(self, closure=None):
        super().step(closure)
        for param, state in self.state.items():
            state["blocks"] = torch.stack([param.detach().to_local().norm()] * 2)


def contradict(kind):
    """A build, and what is done to the state of rank 2."""

    def build(world):
        state = jobs.build(world)
        optimizer = state.optimizer
        if kind == "slot of another shape":
            optimizer = Blocked(state.model.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        extra = Local(state.model) if kind == "local shards" else Notes(seen=[1, 2])
        return TrainState(state.model, optimizer, scheduler, extra={"odd": extra})

    return build


def disturb(kind, state):
    if kind == "extra":
        state.extra["odd"]["seen"][1] = 3
    if kind == "plateau":
        state.scheduler.best = 0.5
    if kind == "learning rate":
        state.optimizer.param_groups[0]["lr"] = 0.5
    if kind == "value of a slot":
        state.optimizer.state[state.model.head.bias]["count"] = 5


def refuse_contradiction(rank, world_size, kind):
    torch.manual_seed(0)
    session = dynatrain.init(contradict(kind), "dp=4", timeout_s=25)
    step_by_hand(session.state)
    for param in session.state.model.parameters():
        if kind == "value of a slot":
            session.state.optimizer.state[param]["count"] = 1
    if rank == 2:
        disturb(kind, session.state)
    before = {name: jobs.whole(p) for name, p in session.state.model.named_parameters()}
    try:
        session.switch("dp=2,tp=2")
    except dynatrain.Error as error:
        after = {name: jobs.whole(p) for name, p in session.state.model.named_parameters()}
        step_by_hand(session.state)
        return type(error), str(error), jobs.differences(before, after)
    return None, "it was accepted", []


CONTRADICTIONS = {
    "extra": ["extra.odd", "ranks 0 and 2", "seen.1: 2 and 3", "per_rank"],
    "plateau": ["scheduler", "ranks 0 and 2", "best"],
    "learning rate": ["ranks 0 and 2", "lr: 0.01 and 0.5"],
    "value of a slot": ["optimizer.state", "head.bias", "ranks 0 and 2"],
    "slot of another shape": ["|blocks", "shape"],
}


# One rank's word was taken for all, a learning rate from the last and its scheduler from the first.
@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_what_ranks_contradict_each_other_about_is_refused_on_all(pool, kind):
    results = pool.run(refuse_contradiction, kind)

    for error, text, differing in results:
        assert error is LayoutError
        assert differing == []
        for word in (*CONTRADICTIONS[kind], "intact"):
            assert word in text


def begin_with_local_shards(rank, world_size):
    try:
        dynatrain.init(contradict("local shards"), "dp=4", timeout_s=25)
    except LayoutError as error:
        return str(error)
    return "it was accepted"


# Nothing says which part of a tensor a plain shard is: known before the first step.
def test_shards_as_plain_tensors_are_refused_by_init(pool):
    for text in pool.run(begin_with_local_shards):
        for word in ("extra.odd", "shard", "DTensors"):
            assert word in text


def switch_per_rank(rank, world_size):
    def build(world):
        state = jobs.build(world)
        return TrainState(
            state.model,
            state.optimizer,
            state.scheduler,
            extra={"own": Notes(at=None)},
            per_rank=["own"],
        )

    session = dynatrain.init(build, "dp=2", initialize=jobs.initialize, timeout_s=25)
    seen = []
    for step in session.steps(3):
        if step == 0:
            session.state.extra["own"]["at"] = rank
        seen.append(session.state.extra["own"]["at"])
        if step < 2:
            session.switch(["dp=4", "dp=2"][step])
    return seen


# The advice of the refusal: what belongs to a rank stays with it, and one that joins has its own.
def test_extra_that_is_declared_per_rank_stays_with_its_rank(pool):
    assert pool.run(switch_per_rank) == [[0, 0, 0], [1, 1, 1], [None], [None]]
