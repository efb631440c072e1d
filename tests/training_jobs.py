"""Small jobs that the tests switch, and what they read of a state with torch's own means."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from dynatrain import Layout, TrainState, World

WIDTH, HIDDEN, NUM_BLOCKS = 12, 24, 4


class NoMeshes:
    """What a world of one process has for meshes."""

    mesh = expert_mesh = groups = default = None


def worlds(layout):
    """One world per rank of the layout, without groups."""
    layout = Layout.parse(layout)
    return [World(layout, rank, "cpu", NoMeshes()) for rank in range(layout.world_size)]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.register_buffer("scale", torch.full((WIDTH,), 0.5), persistent=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.seen += 1
        return x + self.down(self.up(self.norm(x)).relu()) * self.scale


class Mlp(nn.Module):
    """An odd head makes every shard of it uneven."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(NUM_BLOCKS))
        self.head = nn.Linear(WIDTH, 7)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def parallelize(model, world):
    if world.enabled("tp"):
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        for block in model.blocks:
            parallelize_module(block, world.mesh["tp"], plan)
    mesh = world.submesh("dp_replicate", "dp_shard")
    if mesh is not None:
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)


def build(world):
    model = Mlp()
    parallelize(model, world)
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, foreach=False)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    return TrainState(model=model, optimizer=optimizer, scheduler=scheduler)


def initialize(state, world):
    """Weights that depend on the name alone, cut by torch's own distribute_tensor rule."""
    del world
    with torch.no_grad():
        for number, (_, param) in enumerate(sorted(state.model.named_parameters())):
            generator = torch.Generator().manual_seed(number)
            whole = torch.randn(param.shape, generator=generator) * 0.1
            local = param
            if isinstance(param, DTensor):
                replicated = DTensor.from_local(whole, param.device_mesh, run_check=False)
                local, whole = param._local_tensor, _cut(replicated, param)
            local.copy_(whole)
        for block in state.model.blocks:
            block.scale.fill_(0.5)
            block.seen.zero_()


def _cut(replicated, param):
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(
        param.shape, param.device_mesh, param.placements
    )
    where = tuple(slice(o, o + s) for o, s in zip(offset, shape, strict=True))
    return replicated._local_tensor[where]


def train_step(state, world, step):
    """One step on a global batch of 24 that is a function of the step alone."""
    generator = torch.Generator().manual_seed(1000 + step)
    batch = torch.randn(24, WIDTH, generator=generator)
    dp = world.size("dp_replicate") * world.size("dp_shard")
    index = world.coordinate("dp_replicate") * world.size("dp_shard") + world.coordinate("dp_shard")
    loss = state.model(batch.chunk(dp)[index]).square().mean()
    loss.backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.scheduler.step()
    return loss.item()


def local_of(tensor):
    """The shard that this rank has of a parameter, by torch's own attribute."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def whole(tensor):
    """A whole copy of a tensor; collective over its mesh."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def whole_state(state):
    """Every tensor and option of a state, whole, by name; read without dynatrain's adapters."""
    out = {}
    for module in state.modules:
        names = {id(p): n for n, p in module.named_parameters()}
        out |= {f"{n}.param": whole(p) for n, p in module.named_parameters()}
        out |= {f"{n}.buffer": whole(b) for n, b in module.named_buffers()}
        for optimizer in state.optimizers:
            for param, slots in optimizer.state.items():
                if id(param) in names:
                    out |= {f"{names[id(param)]}.{slot}": whole(v) for slot, v in slots.items()}
            for group in optimizer.param_groups:
                options = {k: v for k, v in group.items() if k != "params"}
                for param in group["params"]:
                    if id(param) in names:
                        out[f"{names[id(param)]}.options"] = options
    if state.scheduler is not None:
        out["scheduler"] = state.scheduler.state_dict()
    return out


def differences(before, after):
    """Names on which two whole states differ, to the bit."""
    names = sorted(before.keys() ^ after.keys())
    for name in before.keys() & after.keys():
        a, b = before[name], after[name]
        same = (
            a.dtype == b.dtype
            and torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))
            if isinstance(a, torch.Tensor)
            else a == b
        )
        if not same:
            names.append(name)
    return names


def local_bits(state):
    """What this rank holds of every tensor, as bytes by name; nothing is collective here."""
    out = {}
    names = {id(p): name for name, p in state.model.named_parameters()}
    items = [*state.model.named_parameters(), *state.model.named_buffers()]
    for param, slots in state.optimizer.state.items():
        items += [(f"{names[id(param)]}.{slot}", value) for slot, value in slots.items()]
    for name, tensor in items:
        local = getattr(tensor, "_local_tensor", tensor).detach()
        out[name] = local.contiguous().reshape(-1).view(torch.uint8).clone()
    return out


def same_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
