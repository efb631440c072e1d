"""Memory under tensor objects that build made on the meta device.

The objects stay, and with them their class, attributes, hooks and weak references: optimizers,
recurrent layers and whoever else holds them see the memory.
"""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor

from dynatrain._errors import LayoutError
from dynatrain._torch_private.tensors import holders_in_autograd, put_under
from dynatrain.adapters.torch.blocks import Blocks
from dynatrain.given import said


def wrap_like(tensor: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    """``local`` as the shard of a DTensor that is cut as ``tensor``; itself for a plain tensor."""
    if not isinstance(tensor, DTensor):
        return local
    with torch.no_grad():  # else torch makes a node of autograd for it
        return DTensor.from_local(
            local,
            tensor.device_mesh,
            tensor.placements,
            run_check=False,
            shape=tensor.shape,
            stride=tensor.stride(),
        )


def check_held(name: str, tensor: torch.Tensor) -> None:
    """Raises LayoutError when autograd holds ``tensor``, a leaf, and would go on with no memory."""
    held = holders_in_autograd(tensor)
    if held and tensor.requires_grad:
        raise LayoutError(
            f"materialize: autograd holds {name!r} in {held} places after build\n"
            "  expected parameters that no graph, view or AccumulateGrad node of build refers to: "
            "it would go on without memory, and its hooks would never run\n"
            "  nothing was switched; the source state is intact\n"
            "  compute on parameters under torch.no_grad() in build, and hook them by "
            "param.register_hook() or param.register_post_accumulate_grad_hook()"
        )


def place(name: str, tensor: torch.Tensor, local: torch.Tensor) -> None:
    """Puts ``local`` under the object ``tensor``, as its shard where it is a DTensor.

    Raises:
        LayoutError: C++ code refers to the tensor by more than its object.
    """
    # An alias of its own: the object takes over what it is given.
    memory = wrap_like(tensor, local.detach())
    try:
        put_under(tensor, memory)
    except RuntimeError as error:
        raise LayoutError(
            f"materialize: no memory can be put under {name!r}: {said(error)}\n"
            "  expected a tensor of build that no C++ code refers to\n"
            "  nothing was switched; the source state is intact\n"
            "  drop what build made of it, or make it after the switch"
        ) from error


def fresh(
    local: torch.Tensor,
    device: torch.device,
    room_bytes: int = 0,
    blocks: Blocks | None = None,
    *,
    written: bool = True,
) -> torch.Tensor:
    """Zeroed memory of the shape and strides of ``local``, read as ``local`` is read.

    There are at least ``room_bytes`` of it. Host memory comes from ``blocks`` where they are given.
    Where it is not ``written``, it holds anything, and its pages may not be there yet.
    """
    shape, strides = tuple(local.shape), local.stride()
    if blocks is not None and device.type == "cpu" and local.numel():
        storage = blocks.take(max(span_bytes(local)[1], room_bytes))
        empty = torch.empty(0, dtype=local.dtype, device=device)
        return read_as(empty.set_(storage, 0, shape, strides), local)
    strided = torch.empty_strided(shape, strides, dtype=local.dtype, device=device)
    # By its storage: elements of an expanded tensor lie in one place, which zero_() refuses.
    storage = strided.untyped_storage()
    if storage.nbytes() < room_bytes:
        storage.resize_(room_bytes)
    if written:
        torch.empty(0, dtype=torch.uint8, device=device).set_(storage).zero_()
    return read_as(strided, local)


def span_bytes(local: torch.Tensor) -> tuple[int, int]:
    """Where the elements begin and end in their storage; strides are not negative."""
    last = sum((size - 1) * step for size, step in zip(local.shape, local.stride(), strict=True))
    begin = int(local.storage_offset())
    return begin * local.element_size(), (begin + last + 1) * local.element_size()


def read_as(memory: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``memory`` as a conjugate or negative view where ``like`` is one: bytes mean the same."""
    if like.is_conj():
        memory = memory.conj()
    return memory._neg_view() if like.is_neg() else memory
