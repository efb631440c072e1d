"""Gradient clipping by the global norm under any mix of DTensors and plain tensors.

`torch.nn.utils.clip_grad_norm_` refuses trees that mix meshes (a norm layer under FSDP + TP lies
on the data mesh alone) and sees one pipeline stage only.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor

import dynatrain

AXES = ("dp_replicate", "dp_shard", "cp", "tp")


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[nn.Parameter],
    world: dynatrain.World,
    max_norm: float,
    counted_elsewhere: frozenset[int] = frozenset(),
) -> float:
    """Scale all gradients so that their global norm is at most `max_norm`; return the norm before.

    Each logical element counts once: where several ranks hold it, the one at coordinate 0 of every
    axis that replicates it counts. `counted_elsewhere` has the ids of parameters that another
    pipeline stage counts (the second owner of a tied weight).
    """
    gradients: list[Tensor] = []
    squares = torch.zeros((), dtype=torch.float64, device=world.device)
    for parameter in parameters:
        if parameter.grad is None:
            continue
        gradient = parameter.grad
        part = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        gradients.append(part)
        if id(parameter) not in counted_elsewhere and counts_here(gradient, world):
            squares += torch.linalg.vector_norm(part, dtype=torch.float64) ** 2
    if world.world_size > 1:
        dist.all_reduce(squares, group=world.group("pp", *AXES))
    norm = float(squares.sqrt())
    if norm > max_norm:
        torch._foreach_mul_(gradients, max_norm / norm)
    return norm


def counts_here(gradient: Tensor, world: dynatrain.World) -> bool:
    """Whether this rank is the one that counts the elements it holds of `gradient`."""
    sharded: set[str] = set()
    if isinstance(gradient, DTensor):
        names = gradient.device_mesh.mesh_dim_names or ()
        placements = zip(names, gradient.placements, strict=True)
        sharded = {name for name, placement in placements if not placement.is_replicate()}
    return all(world.coordinate(axis) == 0 for axis in AXES if axis not in sharded)
