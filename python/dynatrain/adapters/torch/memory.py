"""Optimizer slots, and memory behind everything that build made on the meta device."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from dynatrain._errors import LayoutError
from dynatrain._torch_private import local_tensor, refresh_fsdp_memory
from dynatrain.adapters.port import Slots
from dynatrain.adapters.torch import derived
from dynatrain.adapters.torch.inventory import (
    HELD,
    ON_HOST,
    LiveTensors,
    iter_optimizer_params,
    slots_by_fqn,
)
from dynatrain.adapters.torch.placing import check_placeable, fresh, place, wrap_like
from dynatrain.train_state import TrainState


def make_slots(state: TrainState, slots: Slots) -> None:
    """Creates, on meta, the optimizer slots that the source has for the parameters of ``state``.

    Raises:
        LayoutError: a slot has neither its parameter's shape nor no dimension at all.
    """
    live = LiveTensors(state)
    names = slots_by_fqn(slots.source)
    for name, tensor in live.tensors.items():
        if (ON_HOST, name) in slots.notes:
            tensor.dynatrain_on_host = True  # type: ignore[attr-defined]
    for holder, param in iter_optimizer_params(live):
        fqn = live.fqn(param)
        for slot in names.get(fqn, ()):
            if (HELD, holder.role, slot) not in slots.notes:
                continue
            shape, dtype, _ = slots.source.info(f"{fqn}|{slot}")
            tensor = _slot_like(param, tuple(shape), getattr(torch, dtype), f"{fqn}|{slot}")
            if not shape and (ON_HOST, slot) in slots.notes:
                tensor.dynatrain_on_host = True  # type: ignore[attr-defined]
            holder.optimizer.state[param][slot] = tensor


def _slot_like(
    param: nn.Parameter, shape: tuple[int, ...], dtype: torch.dtype, name: str
) -> torch.Tensor:
    if not shape:
        return torch.empty((), dtype=dtype, device="meta")
    if shape == tuple(param.shape):
        local = local_tensor(param)
        return wrap_like(param, torch.empty_like(local, dtype=dtype, device="meta"))
    raise LayoutError(
        f"materialize: optimizer slot {name!r} has shape {list(shape)}\n"
        f"  expected the parameter's shape {list(param.shape)}, or a scalar\n"
        "  nothing was moved; the source state is intact\n"
        "  hand such an optimizer's state over as extra= instead"
    )


def materialize(
    target: LiveTensors,
    source: LiveTensors | None,
    device: torch.device,
    adopted: Collection[str],
) -> LiveTensors:
    """Puts memory behind every meta tensor of the target: adopted where named, else fresh zeros.

    Fresh memory is written once, so that its pages are there before a switch needs them.

    Args:
        target: a state built on meta, with its slots.
        source: the state that lends memory.
        device: where parameters and buffers live.
        adopted: names of local tensors to share; dense, equal in shape and dtype on both sides.

    Returns:
        The tensors of the target as they are now.
    """
    lent = {} if source is None else _lent(target, source, adopted)
    derived.give_memory(target.state, device)
    missing = {n: t for n, t in target.tensors.items() if local_tensor(t).is_meta}
    for name, tensor in missing.items():
        check_placeable(name, tensor)
    placed: set[int] = set()
    for name, tensor in missing.items():
        if id(tensor) in placed:  # tied: one object under several names
            continue
        placed.add(id(tensor))
        local = lent.get(name)
        if local is None:
            local = fresh(local_tensor(tensor), _device_of(tensor, device))
        place(name, tensor, local)
    for _, module in target.state.named_modules():
        refresh_fsdp_memory(module)
    check_no_meta_left(target.state)
    if device.type == "cuda":
        # The switch comes after its caller's stream, which need not be the one that fills this.
        torch.cuda.current_stream(device).synchronize()
    return LiveTensors(target.state, device=device, objects=target.objects)


def _device_of(tensor: torch.Tensor, device: torch.device) -> torch.device:
    return torch.device("cpu") if getattr(tensor, "dynatrain_on_host", False) else device


def _lent(
    target: LiveTensors, source: LiveTensors, adopted: Collection[str]
) -> dict[str, torch.Tensor]:
    return {
        name: local_tensor(source.tensors[name]).detach()
        for name in adopted
        if local_tensor(target.tensors[name]).is_meta
    }


def check_no_meta_left(state: TrainState) -> None:
    """Raises LayoutError when a module holds a meta tensor that nothing gives memory to."""
    for module in state.modules:
        for prefix, child in module.named_modules():
            for name, value in vars(child).items():
                if _holds_meta(value):
                    where = f"{prefix}.{name}" if prefix else name
                    raise LayoutError(
                        f"materialize: {where!r} has no memory after build\n"
                        "  expected every tensor to be a parameter or buffer: build runs under the "
                        "meta device\n"
                        "  nothing was moved; the source state is intact\n"
                        f"  use register_buffer({name!r}, ...), persistent=False if it is not saved"
                    )


def _holds_meta(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return local_tensor(value).is_meta
    if isinstance(value, list | tuple):
        return any(_holds_meta(item) for item in value)
    if isinstance(value, dict):
        return any(_holds_meta(item) for item in value.values())
    return False
