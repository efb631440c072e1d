"""What is said of one tensor: its shape, dtype, address, and the boxes that this rank holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from dynatrain import _native
from dynatrain._errors import DeviceError, LayoutError
from dynatrain.adapters.torch.names import dtype_name

#: The address of a tensor that has memory, and none of it: never read.
_NO_BYTES = 64
#: Classes whose tensors are told whole by :func:`facts`.
_USUAL = (torch.Tensor, nn.Parameter)


@dataclass
class Described:
    """The table of a state as it was described last, with all that it was made of.

    Whoever reads the state again asks every tensor for its facts, and makes the table anew where
    one of them, or a name, is another. Making it takes ten times as long as asking.
    """

    names: Sequence[str] = ()
    known: Sequence[object] = ()
    table: _native.StateTable | None = None

    def again(self, names: Sequence[str], found: Sequence[object]) -> _native.StateTable | None:
        """The table, where it says of these tensors what :func:`describe` would say now."""
        return self.table if self.known == found and self.names == names else None

    def forget(self) -> None:
        """Lets go of the table, and of the meshes that its tensors had."""
        self.names, self.known, self.table = (), (), None


def facts(tensor: torch.Tensor) -> object:
    """All that :func:`check_device` and :func:`describe` ask of a tensor, to be compared.

    Of an unusual class it is equal to nothing else, itself at another time included.
    """
    if not isinstance(tensor, DTensor):
        return _facts(tensor)
    local = _facts(tensor._local_tensor)
    return (local, tensor.shape, tensor.dtype, tensor.device_mesh, tensor.placements)


def _facts(local: torch.Tensor) -> object:
    if type(local) not in _USUAL or local.is_nested or local.layout is not torch.strided:
        return object()
    return (
        local.data_ptr(),
        local.shape,
        local.stride(),
        local.dtype,
        local.device,
        local.is_quantized,
        local.is_conj(),
        local.is_neg(),
    )


def check_device(name: str, found: torch.device, device: torch.device) -> None:
    """Raises DeviceError when a tensor lies where no lane of the session goes."""
    if found.type not in ("cpu", "meta") and found != device:
        raise DeviceError(
            f"adapters: {name!r} lives on {found}\n"
            f"  expected the host or the session's device, {device}\n"
            "  nothing was switched; the source state is intact and training may go on\n"
            "  build on world.device, or give dynatrain.init the device of this rank"
        )


def check_bytes(name: str, local: torch.Tensor) -> None:
    """Raises LayoutError when the elements of a tensor are not bytes at strides of one memory."""
    found = None
    if local.layout is not torch.strided:
        found = f"layout {local.layout}"
    elif local.is_quantized:
        found = f"quantized elements, {local.dtype}"
    elif _wraps_others(local) or local.is_nested:
        found = f"a {type(local).__name__}, which wraps other tensors"
    elif not local.is_meta and local.numel() and not local.data_ptr():
        found = f"a {type(local).__name__} without memory of its own"
    if found is not None:
        raise LayoutError(
            f"adapters: {name!r} has {found}\n"
            "  expected a dense tensor, whose elements are bytes in one memory\n"
            "  nothing was switched; the source state is intact\n"
            "  keep what it is made of as plain tensors: indices and values of a sparse tensor, "
            "codes and scales of a quantized one; optimizers with 32-bit states have them"
        )


def _wraps_others(local: object) -> bool:
    return is_traceable_wrapper_subclass(local)


def _reading(local: torch.Tensor) -> str:
    """How bytes are read that are not the elements themselves: equal everywhere, as a dtype is."""
    return (".conj" if local.is_conj() else "") + (".neg" if local.is_neg() else "")


def describe(
    table: _native.StateTable,
    meshes: dict[int, int],
    name: str,
    tensor: torch.Tensor,
    local: torch.Tensor,
) -> None:
    """Adds one tensor to ``table``; ``meshes`` are those in it, by identity.

    Raises:
        LayoutError: it is not dense, or its placements cannot be said.
    """
    check_bytes(name, local)
    address = 0 if local.is_meta else local.data_ptr() or _NO_BYTES
    dtype, itemsize = dtype_name(tensor.dtype) + _reading(local), tensor.element_size()
    if not isinstance(tensor, DTensor):
        strides = list(local.stride())
        table.add_whole(name, list(tensor.shape), dtype, itemsize, address, strides)
        return
    if not local.is_contiguous():
        raise LayoutError(
            f"adapters: the local shard of {name!r} is not dense\n"
            f"  shape {tuple(local.shape)}, strides {local.stride()}\n"
            "  nothing was switched; the source state is intact\n"
            "  make the parameter contiguous before it is sharded"
        )
    mesh = tensor.device_mesh
    if id(mesh) not in meshes:
        meshes[id(mesh)] = table.add_mesh(list(mesh.mesh.shape), mesh.mesh.flatten().tolist())
    table.add_sharded(
        name,
        list(tensor.shape),
        dtype,
        itemsize,
        meshes[id(mesh)],
        _placements(name, tensor, mesh),
        address,
        list(local.shape),
        list(local.stride()),
    )


def _placements(name: str, tensor: DTensor, mesh: DeviceMesh) -> list[tuple[int, int]]:
    out = []
    for placement in tensor.placements:
        if isinstance(placement, Replicate):
            out.append((-1, 1))
        elif isinstance(placement, Shard | _StridedShard):
            factor = int(getattr(placement, "split_factor", 1))
            out.append((placement.dim % max(tensor.dim(), 1), factor))
        else:
            raise LayoutError(
                f"adapters: {name!r} has placement {placement} on mesh {mesh}\n"
                "  expected Shard, _StridedShard or Replicate\n"
                "  nothing was switched; the source state is intact\n"
                "  reduce partial tensors before a switch"
            )
    return out
