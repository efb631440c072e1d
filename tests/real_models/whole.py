"""The whole state of a job, gathered with torch's own means, and put into another job by hand.

Nothing here knows dynatrain: what a switch moved is compared with it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.placement_types import _StridedShard

import training_jobs as jobs

GUIDES = Path(__file__).resolve().parents[2] / "examples" / "guides"


def guide(name):
    """The module of a guide's script."""
    sys.path.insert(0, str(GUIDES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(GUIDES))


def cut(whole, mesh, placements):
    """This rank's part of a tensor: the inner axes of a mesh cut first, the outer the rest."""
    for axis in reversed(range(mesh.ndim)):
        placement = placements[axis]
        if isinstance(placement, Replicate):
            continue
        dim, parts, own = placement.dim, mesh.size(axis), mesh.get_local_rank(axis)
        inner = any(getattr(later, "dim", None) == dim for later in placements[axis + 1 :])
        # Strided beside an inner cut of the same dimension is plain; alone it is a packed weight.
        packed = isinstance(placement, _StridedShard) and not inner
        pieces = whole.chunk(placement.split_factor if packed else 1, dim)
        whole = torch.cat([piece.chunk(parts, dim)[own] for piece in pieces], dim)
    return whole


def put(tensor, whole):
    """Writes this rank's part of a whole tensor."""
    with torch.no_grad():
        if isinstance(tensor, DTensor):
            tensor._local_tensor.copy_(cut(whole, tensor.device_mesh, tensor.placements))
        else:
            tensor.copy_(whole)


def tensors(modules):
    """Parameters and buffers by name and kind."""
    for module in modules:
        for name, param in module.named_parameters():
            yield name, "param", param
        for name, buffer in module.named_buffers():
            yield name, "buffer", buffer


def draw(modules, skipped=()):
    """Values that depend on the name alone; no two shards of them are alike."""
    for name, _, tensor in tensors(modules):
        if not name.endswith(skipped):
            generator = torch.Generator().manual_seed(sum(map(ord, name)))
            put(tensor, torch.randn(tensor.shape, generator=generator) * 0.05)


def gathered(modules, optimizers, scheduler=None):
    """The whole state of a job on every rank, all stages; replicas must agree."""
    parts = {"modules": modules, "optimizers": list(optimizers), "scheduler": scheduler}
    own = jobs.whole_state(SimpleNamespace(**parts))
    for name in own:
        if name.endswith(".options"):
            own[name] = {k: v for k, v in own[name].items() if k != "param_names"}
    everyones = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, own)
    whole = {}
    for of_rank in everyones:
        shared = whole.keys() & of_rank.keys()
        assert (
            jobs.differences({n: whole[n] for n in shared}, {n: of_rank[n] for n in shared}) == []
        )
        whole |= of_rank
    return whole


def fill(whole, modules, optimizers, scheduler=None):
    """Puts a gathered state into a job that was made without it."""
    names = {}
    for name, kind, tensor in tensors(modules):
        names[tensor] = name
        put(tensor, whole[f"{name}.{kind}"])
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group |= whole[f"{names[group['params'][0]]}.options"]
            for param in group["params"]:
                moments = {slot: torch.zeros_like(param) for slot in ("exp_avg", "exp_avg_sq")}
                slots = optimizer.state[param] = {"step": torch.zeros(()), **moments}
                for slot, tensor in slots.items():
                    put(tensor, whole[f"{names[param]}.{slot}"])
    if scheduler is not None:
        scheduler.load_state_dict(whole["scheduler"])
