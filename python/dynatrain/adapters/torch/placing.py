"""Memory under tensor objects that build made on the meta device.

The objects stay, and with them their class, attributes, hooks and weak references: optimizers,
recurrent layers and whoever else holds them see the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch.distributed.tensor import DTensor

from dynatrain._errors import LayoutError
from dynatrain._torch_private import holders_in_autograd, local_tensor, put_under

#: Where the memory of a tensor is to be.
DeviceOf = Callable[[str, torch.Tensor], torch.device]


def wrap_like(tensor: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    """``local`` as the shard of a DTensor that is cut as ``tensor``; itself for a plain tensor."""
    if not isinstance(tensor, DTensor):
        return local
    return DTensor.from_local(
        local,
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


def check_placeable(name: str, tensor: torch.Tensor) -> None:
    """Raises LayoutError when autograd holds ``tensor``, a leaf, and would go on with no memory."""
    held = holders_in_autograd(tensor)
    if held and tensor.requires_grad:
        raise LayoutError(
            f"materialize: autograd holds {name!r} in {held} places after build\n"
            "  expected parameters that no graph, view or AccumulateGrad node of build refers to: "
            "it would go on without memory, and its hooks would never run\n"
            "  nothing was moved; the source state is intact\n"
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
        put_under(tensor, memory.detach() if isinstance(memory, DTensor) else memory)
    except RuntimeError as error:
        raise LayoutError(
            f"materialize: no memory can be put under {name!r}: {error}\n"
            "  expected a tensor of build that no C++ code refers to\n"
            "  nothing was moved; the source state is intact\n"
            "  drop what build made of it, or make it after the switch"
        ) from error


def fresh(local: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Zeroed memory of the shape and strides of ``local``, read as ``local`` is read."""
    strided = torch.empty_strided(
        tuple(local.shape), local.stride(), dtype=local.dtype, device=device
    )
    # By its storage: elements of an expanded tensor lie in one place, which zero_() refuses.
    torch.empty(0, dtype=torch.uint8, device=device).set_(strided.untyped_storage()).zero_()
    return read_as(strided, local)


def read_as(memory: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``memory`` as a conjugate or negative view where ``like`` is one: bytes mean the same."""
    if like.is_conj():
        memory = memory.conj()
    return memory._neg_view() if like.is_neg() else memory


def fresh_together(
    members: Mapping[str, torch.Tensor], device: torch.device
) -> dict[str, torch.Tensor]:
    """Memory for local tensors that lie in one storage, in one storage again."""
    locals_of = members.values()
    num_bytes = max(_end_bytes(local) for local in locals_of)
    whole = torch.zeros(num_bytes, dtype=torch.uint8, device=device).untyped_storage()
    return {
        name: read_as(
            torch.empty(0, dtype=local.dtype, device=device).set_(
                whole, local.storage_offset(), tuple(local.shape), local.stride()
            ),
            local,
        )
        for name, local in members.items()
    }


def _end_bytes(local: torch.Tensor) -> int:
    if local.numel() == 0:
        return 0
    last = sum((size - 1) * step for size, step in zip(local.shape, local.stride(), strict=True))
    return int(local.storage_offset() + last + 1) * local.element_size()


def in_one_storage(tensors: Iterable[tuple[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """Groups local tensors of several objects by the storage that they share; loners left out."""
    by_storage: dict[int, dict[str, torch.Tensor]] = {}
    objects: dict[int, set[int]] = {}
    for name, tensor in tensors:
        local = local_tensor(tensor)
        key = local.untyped_storage()._cdata
        by_storage.setdefault(key, {})[name] = local
        objects.setdefault(key, set()).add(id(tensor))
    return [group for key, group in by_storage.items() if len(objects[key]) > 1]
