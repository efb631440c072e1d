"""Every kind of training state arrives, held against one plain process that never switches.

Gradients are made by hand, element by element, so that a step rounds the same in every layout: what
a rank holds after any number of steps and switches must equal the plain job's bits.
"""

from __future__ import annotations

import zlib

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

import dynatrain
import training_jobs as jobs
from dynatrain import Layout, TrainState, World
from held_values import Counter

STEPS_PER_LAYOUT = 2


def plain_job(kind):
    """The state of a job of one process, without any group."""
    world = World(Layout(), 0, torch.device("cpu"), jobs.NoMeshes())
    state = kind.build(world)
    fill_by_name(state, world)
    return state


def fill_by_name(state, world):
    """Weights and buffers that depend on their name alone, cut by torch's own offsets."""
    del world
    for module in state.modules:
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            whole = (torch.randn(tensor.shape, generator=generator) * 3).to(tensor.dtype)
            local = tensor.detach()
            if isinstance(tensor, DTensor):
                shape, offset = compute_local_shape_and_global_offset(
                    tensor.shape, tensor.device_mesh, tensor.placements
                )
                where = tuple(slice(o, o + s) for o, s in zip(offset, shape, strict=True))
                local, whole = tensor._local_tensor, whole[where]
            local.copy_(whole)


def step_by_hand(state, step, without_gradient=()):
    """One optimizer step on gradients that are a function of each element and the step."""
    for module in state.modules:
        for name, param in module.named_parameters():
            if param.requires_grad and name not in without_gradient:
                param.grad = gradient_like(param, step)
        for buffer in module.buffers():
            if buffer.dtype == torch.int64:
                buffer += 1
    for optimizer in state.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    if state.scheduler is not None:
        state.scheduler.step()


def gradient_like(param, step):
    if not isinstance(param, DTensor):
        return param.detach() * 0.25 + 0.125 * step
    return DTensor.from_local(
        param._local_tensor.detach() * 0.25 + 0.125 * step,
        param.device_mesh,
        param.placements,
        run_check=False,
        shape=param.shape,
        stride=param.stride(),
    )


def follow(rank, world_size, kind, path):
    """Goes along a path of layouts; returns what differed from the plain job, and what was held."""
    session = dynatrain.init(
        kind.build, path[0], initialize=fill_by_name, timeout_s=25, verify=("sums", "fingerprint")
    )
    plain, num_plain_steps = plain_job(kind), 0
    wrong, held, fingerprints = [], [], []
    for step in session.steps(STEPS_PER_LAYOUT * len(path)):
        # Ranks that join come in here: only now do all ranks of a layout compare together.
        while num_plain_steps < step:
            kind.step(plain, num_plain_steps)
            num_plain_steps += 1
        wrong += differing(session.state, plain, f"before step {step} in {session.layout}")
        kind.step(session.state, step)
        kind.step(plain, step)
        num_plain_steps += 1
        wrong += differing(session.state, plain, f"after step {step} in {session.layout}")
        wrong += kind.complaints(session.state)
        held.append(sorted(names_of(session.state)))
        at, inside = divmod(step + 1, STEPS_PER_LAYOUT)
        if inside == 0 and at < len(path):
            report = session.switch(path[at])
            fingerprints.append(report.fingerprint_before == report.fingerprint_after)
    session.close()
    return wrong, held, sorted(names_of(plain)), all(fingerprints)


def differing(state, plain, when):
    """What of this rank's whole tensors and options is not as in the plain job."""
    ours, theirs = (
        {name: v.contiguous() if torch.is_tensor(v) else v for name, v in read.items()}
        for read in (jobs.whole_state(state), jobs.whole_state(plain))
    )
    expected = {name: theirs.get(name) for name in ours}
    return [f"{when}: {name}" for name in jobs.differences(expected, ours)]


def names_of(state):
    return {name for name in jobs.whole_state(state) if not name.endswith(".options")}


class Kind:
    """A job; subclasses say what is special about it."""

    def build(self, world):
        raise NotImplementedError

    def step(self, state, step):
        step_by_hand(state, step)

    def complaints(self, state):
        return []


class MomentumScalerExtra(Kind):
    """SGD with momentum, a step schedule, a gradient scaler and an extra object."""

    def build(self, world):
        model = jobs.Mlp()
        jobs.parallelize(model, world)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=100)
        return TrainState(model, optimizer, scheduler, scaler, extra={"counter": Counter()})

    def step(self, state, step):
        step_by_hand(state, step)
        state.scaler.scale(torch.ones(1))
        state.scaler.update(8.0 + step)
        state.extra["counter"].value += 3

    def complaints(self, state):
        # The scaler's scale after step s is 8 + s, the counter 3 (s + 1).
        done = state.scheduler.last_epoch
        scale = state.scaler.state_dict()["scale"]
        counted = state.extra["counter"].value
        expected = (7.0 + done, 3 * done)
        return [] if (scale, counted) == expected else [f"{scale, counted} is not {expected}"]


class FrozenAndUnused(Kind):
    """A frozen block, and a parameter that never gets a gradient and so has no `step`."""

    UNUSED = ("head.weight", "blocks.1.norm.bias")

    def build(self, world):
        model = jobs.Mlp()
        model.blocks[0].requires_grad_(False)
        jobs.parallelize(model, world)
        return TrainState(model, torch.optim.AdamW(model.parameters(), lr=0.1, foreach=False))

    def step(self, state, step):
        step_by_hand(state, step, self.UNUSED)

    def complaints(self, state):
        params = dict(state.model.named_parameters())
        without = [name for name in params if not state.optimizer.state.get(params[name])]
        frozen = [name for name in params if not params[name].requires_grad]
        expected = sorted([*self.UNUSED, *frozen])
        wrong = [] if sorted(without) == expected else [f"without state: {without}"]
        wrong += [] if frozen and all("blocks.0." in name for name in frozen) else ["frozen"]
        return wrong


class Dtypes(Kind):
    """Buffers of many dtypes, of no dimension and of no element, and a bf16 layer."""

    def build(self, world):
        model = nn.Module()
        model.narrow = nn.Linear(6, 10, dtype=torch.bfloat16)
        model.wide = nn.Linear(6, 5)
        for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.bool):
            name = str(dtype).removeprefix("torch.")
            model.register_buffer(f"b_{name}", torch.zeros(3, 5).to(dtype), persistent=False)
        model.register_buffer("scalar", torch.zeros(()))
        model.register_buffer("flag", torch.zeros((), dtype=torch.bool))
        model.register_buffer("count", torch.zeros((), dtype=torch.int64))
        model.register_buffer("empty", torch.zeros(0, 3))
        model.register_buffer("transposed", torch.zeros(4, 3).t())
        mesh = world.submesh("dp_replicate", "dp_shard")
        if mesh is not None:
            fully_shard(model.narrow, mesh=mesh)
            fully_shard(model.wide, mesh=mesh)
        return TrainState(model, torch.optim.Adam(model.parameters(), lr=0.1, foreach=False))


class Tied(Kind):
    """One embedding read at both ends, one rotary table in two modules."""

    def build(self, world):
        model = nn.Module()
        model.embed = nn.Embedding(9, 6)
        model.mid = nn.Linear(6, 6)
        model.head = nn.Linear(6, 9, bias=False)
        model.head.weight = model.embed.weight
        model.mid.register_buffer("table", torch.zeros(4, 2))
        model.head.register_buffer("table", model.mid.table)
        mesh = world.submesh("dp_replicate", "dp_shard")
        if mesh is not None:
            fully_shard(model, mesh=mesh)
        return TrainState(model, torch.optim.AdamW(model.parameters(), lr=0.1, foreach=False))

    def complaints(self, state):
        model = state.model
        pairs = {
            "weight": (model.embed.weight, model.head.weight),
            "table": (model.mid.table, model.head.table),
        }
        locals_of = lambda t: t.to_local() if isinstance(t, DTensor) else t  # noqa: E731
        return [
            f"{name} is no longer one storage"
            for name, (a, b) in pairs.items()
            if locals_of(a).data_ptr() != locals_of(b).data_ptr() or len({id(a), id(b)}) != 1
        ]


class TwoOptimizers(Kind):
    """AdamW for matrices, SGD with momentum for the rest."""

    def build(self, world):
        model = jobs.Mlp()
        jobs.parallelize(model, world)
        matrices = [p for p in model.parameters() if p.dim() > 1]
        vectors = [p for p in model.parameters() if p.dim() <= 1]
        return TrainState(
            model,
            [
                torch.optim.AdamW(matrices, lr=0.1, amsgrad=True, foreach=False),
                torch.optim.SGD(vectors, lr=0.2, momentum=0.5, foreach=False),
            ],
        )


class Stages(Kind):
    """Pipeline stages, several per rank: the model is a list of modules."""

    NUM_LAYERS = 7

    def build(self, world):
        stages = []
        for layers in world.layers(self.NUM_LAYERS):
            stage = nn.Module()
            stage.layers = nn.ModuleDict({str(i): jobs.Block() for i in layers})
            if 0 in layers:
                stage.embed = nn.Embedding(5, jobs.WIDTH)
            if self.NUM_LAYERS - 1 in layers:
                stage.head = nn.Linear(jobs.WIDTH, 3)
            if world.enabled("dp_shard"):
                fully_shard(stage, mesh=world.mesh["dp_shard"])
            stages.append(stage)
        params = [param for stage in stages for param in stage.parameters()]
        return TrainState(stages, torch.optim.AdamW(params, lr=0.1, foreach=False))


class ContextParallel(Kind):
    """FSDP over data and context parallel ranks together, replicas beside it."""

    def build(self, world):
        model = jobs.Mlp()
        shard = world.flat("dp_shard", "cp")
        if shard is not None and world.enabled("dp_replicate"):
            mesh = world.mesh["dp_replicate", shard.mesh_dim_names[0]]
        else:
            mesh = world.submesh("dp_replicate") if shard is None else shard
        if mesh is not None:
            for block in model.blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(model, mesh=mesh)
        return TrainState(model, torch.optim.AdamW(model.parameters(), lr=0.1, foreach=False))


class Experts(Kind):
    """Experts cut over ep as DTensors on the expert mesh, FSDP over what is left of dp."""

    NUM_EXPERTS = 4

    def build(self, world):
        model = nn.Module()
        model.router = nn.Linear(6, self.NUM_EXPERTS)
        model.experts = nn.Module()
        experts = nn.Parameter(torch.zeros(self.NUM_EXPERTS, 8, 6))
        mesh = world.expert_mesh
        if mesh is not None:
            size = world.size("ep")
            part = torch.zeros(self.NUM_EXPERTS // size, 8, 6)
            experts = nn.Parameter(
                DTensor.from_local(part, mesh["ep"], [Shard(0)], run_check=False)
            )
        model.experts.weight = experts
        if mesh is not None and "efsdp" in mesh.mesh_dim_names:
            fully_shard(model.experts, mesh=mesh["efsdp"])
        dense = world.submesh("dp_replicate", "dp_shard")
        if dense is not None:
            ignored = set() if mesh is None else set(model.experts.parameters())
            fully_shard(model, mesh=dense, ignored_params=ignored)
        return TrainState(model, torch.optim.AdamW(model.parameters(), lr=0.1, foreach=False))


PATHS = {
    "momentum scaler extra": (MomentumScalerExtra(), 4, ["dp=4", "dp=2,tp=2", "dp=3", "tp=4"]),
    "frozen and unused": (FrozenAndUnused(), 4, ["dp=4", "dp=2,tp=2", "dp=4"]),
    "dtypes": (Dtypes(), 4, ["dp=4", "dp_replicate=2,dp=2", "dp=1", "dp=3"]),
    "tied": (Tied(), 4, ["dp=4", "dp=1", "dp_replicate=2,dp=2", "dp=3"]),
    "two optimizers": (TwoOptimizers(), 4, ["dp=4", "tp=2", "dp=2,tp=2"]),
    "virtual stages": (Stages(), 4, ["dp=2", "pp=2,vpp=2", "pp=4", "dp=2,pp=2,vpp=3", "pp=2"]),
    "context parallel": (
        ContextParallel(),
        5,
        ["dp=2,cp=2", "dp=5", "dp_replicate=2,cp=2", "dp_replicate=2,dp=2"],
    ),
    "experts": (Experts(), 4, ["dp=4,ep=2", "dp=4,ep=4", "dp=4", "dp=2,tp=2,ep=4", "dp=2,ep=2"]),
}


# Law 1 for every kind of state. What is forgotten is not missed by any error message: the loss
# curve bends a little, days later.
@pytest.mark.parametrize("kind", PATHS)
def test_law1_every_kind_of_state_is_that_of_a_plain_job(pool, kind):
    job, world_size, path = PATHS[kind]
    results = pool.run(follow, job, path, world_size=world_size, timeout_s=50)

    for rank, (wrong, _, _, fingerprints_equal) in enumerate(results):
        assert wrong == [], f"rank {rank}"
        assert fingerprints_equal
    everything = results[0][2]
    last_held = [held[-1] for _, held, _, _ in results[: Layout.parse(path[-1]).world_size]]
    assert sorted({name for names in last_held for name in names}) == everything
