"""Live tensors of a model and its optimizers, by logical name, and their descriptors.

A logical name is ``"<fqn>|<slot>"``; the slot is ``param``, ``buffer`` or the optimizer's own word
(``exp_avg``, ``step``, ``momentum_buffer``). FQNs follow torch's checkpoint rules.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from dynatrain import _native
from dynatrain._errors import DeviceError, LayoutError
from dynatrain._torch_private import local_tensor
from dynatrain.adapters.port import Inventory, SlotNote
from dynatrain.train_state import TrainState

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
PARAM, BUFFER = "param", "buffer"
#: First word of the note that a slot lies on the host whatever its parameter's device.
ON_HOST = "on host"


def clean_fqn(name: str) -> str:
    """Strips what ``torch.compile``, activation checkpointing and DDP wrap into names."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without ``torch.``."""
    return str(dtype).removeprefix("torch.")


class LiveTensors(Inventory):
    """The tensors of one rank's state by logical name, and the FQN of every parameter.

    Args:
        state: the state to read; nothing is copied.
        names: new names of tensors, by the FQN that ``state`` has (see ``dynatrain.init``).
        device: where tensors must lie that do not lie on the host; None for anywhere.

    Raises:
        LayoutError: two tensors share a name, or an optimizer holds a parameter that the model
            lacks.
    """

    def __init__(
        self,
        state: TrainState,
        names: Mapping[str, str] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.state = state
        self._device = device
        self._names = dict(names or {})
        self.tensors: dict[str, torch.Tensor] = {}
        self.fqn_of: dict[int, str] = {}
        self._host_slots: set[str] = set()
        self.values: dict[str, dict[str, object]] = {}
        for module in state.modules:
            self._add_module(module)
        for optimizer in state.optimizers:
            self._add_optimizer(optimizer)

    def fqn(self, param: torch.Tensor) -> str:
        """FQN of a parameter; raises LayoutError when the model has no such parameter."""
        fqn = self.fqn_of.get(id(param))
        if fqn is None:
            raise LayoutError(
                f"adapters: an optimizer holds a parameter of shape {tuple(param.shape)} "
                "that the model does not have\n"
                "  expected only parameters of TrainState.model\n"
                "  nothing was moved\n"
                "  pass every module whose parameters are optimized as TrainState(model=[...])"
            )
        return fqn

    def _add_module(self, module: nn.Module) -> None:
        prefix_free = (
            module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module
        )
        for name, param in prefix_free.named_parameters():
            fqn = self._named(name)
            self._add(f"{fqn}|{PARAM}", param)
            self.fqn_of[id(param)] = fqn
        # A buffer that blocks share has every name: the first one differs between stages.
        for name, buffer in prefix_free.named_buffers(remove_duplicate=False):
            self._add(f"{self._named(name)}|{BUFFER}", buffer)

    def _add_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        for param, slots in optimizer.state.items():
            fqn = self.fqn(param)
            for slot, value in slots.items():
                if isinstance(value, torch.Tensor):
                    self._add(f"{fqn}|{slot}", value)
                    if value.device.type == "cpu":
                        self._host_slots.add(slot)
                else:
                    self.values.setdefault(fqn, {})[slot] = value

    def _named(self, name: str) -> str:
        fqn = clean_fqn(name)
        return self._names.get(fqn, fqn)

    def _add(self, name: str, tensor: torch.Tensor) -> None:
        if self.tensors.get(name) is tensor:
            return  # tied within this rank: the modules of two stages hold one parameter
        if name in self.tensors:
            raise LayoutError(
                f"adapters: two live tensors are named {name!r} on this rank\n"
                "  expected FQNs that are unique across the pipeline stages of one rank\n"
                "  nothing was moved\n  rename one of them, or tie them to one parameter"
            )
        self.tensors[name] = tensor

    def host_names(self) -> set[str]:
        """Names of the tensors that lie in host memory."""
        return {
            n for n, tensor in self.tensors.items() if local_tensor(tensor).device.type == "cpu"
        }

    def slot_notes(self) -> frozenset[SlotNote]:
        """Optimizer slots that live on the host whatever the parameter's device."""
        return frozenset((ON_HOST, slot) for slot in self._host_slots)

    def missing_bytes(self, adopted: Collection[str]) -> int:
        """Bytes of the meta tensors, tied ones once, those named in ``adopted`` left out."""
        kept = frozenset(adopted)
        fresh = {
            id(tensor): local_tensor(tensor).nbytes
            for name, tensor in self.tensors.items()
            if name not in kept and local_tensor(tensor).is_meta
        }
        return sum(fresh.values())

    def table(self) -> _native.StateTable:
        """Descriptors and addresses of all tensors (address 0 for meta tensors).

        Raises:
            LayoutError: a placement or the strides of a shard cannot be said.
            DeviceError: a tensor is neither on the host nor on the device that was given.
        """
        table = _native.StateTable()
        meshes: dict[int, int] = {}
        for name, tensor in self.tensors.items():
            local = local_tensor(tensor)
            if self._device is not None:
                _check_device(name, local.device, self._device)
            _describe(table, meshes, name, tensor, local)
        return table


def _check_device(name: str, found: torch.device, device: torch.device) -> None:
    if found.type not in ("cpu", "meta") and found != device:
        raise DeviceError(
            f"adapters: {name!r} lives on {found}\n"
            f"  expected the host or the session's device, {device}\n"
            "  nothing was moved; the source state is intact and training may go on\n"
            "  build on world.device, or give dynatrain.init the device of this rank"
        )


def _describe(
    table: _native.StateTable,
    meshes: dict[int, int],
    name: str,
    tensor: torch.Tensor,
    local: torch.Tensor,
) -> None:
    address = 0 if local.is_meta else local.data_ptr()
    dtype, itemsize = dtype_name(tensor.dtype), tensor.element_size()
    if not isinstance(tensor, DTensor):
        strides = list(local.stride())
        table.add_whole(name, list(tensor.shape), dtype, itemsize, address, strides)
        return
    if not local.is_contiguous():
        raise LayoutError(
            f"adapters: the local shard of {name!r} is not dense\n"
            f"  shape {tuple(local.shape)}, strides {local.stride()}\n"
            "  nothing was moved; the source state is intact\n"
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
                "  nothing was moved; the source state is intact\n"
                "  reduce partial tensors before a switch"
            )
    return out


def slots_by_fqn(source: _native.ShardMap) -> dict[str, list[str]]:
    """Optimizer slots of each parameter that exist anywhere in the source."""
    slots: dict[str, list[str]] = {}
    for name in source.names():
        fqn, slot = name.rsplit("|", 1)
        if slot not in (PARAM, BUFFER):
            slots.setdefault(fqn, []).append(slot)
    return slots


def iter_optimizer_params(
    state: TrainState,
) -> Iterator[tuple[torch.optim.Optimizer, nn.Parameter]]:
    """Every parameter with the optimizer that owns it."""
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            for param in group["params"]:
                yield optimizer, param
