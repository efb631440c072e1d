"""Values as bytes that say what a value is, and not where it lies."""

from __future__ import annotations

import io
import pickle
from functools import partial
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from dynatrain._errors import LayoutError

_HOST = torch.device("cpu")


class _Pickler(pickle.Pickler):
    """Pickles tensors in host memory by their elements alone.

    torch writes the address of a tensor's memory beside its bytes: what is equal on all ranks would
    differ between any two of them.
    """

    def reducer_override(self, obj: Any) -> Any:
        """How a plain dense tensor is written; everything else as always."""
        if isinstance(obj, DTensor):
            raise TypeError("it holds a DTensor, whose mesh belongs to one layout")
        if type(obj) is not torch.Tensor or not _is_plain(obj):
            return NotImplemented
        order = sorted(range(obj.dim()), key=obj.stride, reverse=True)
        dense = obj.detach().permute(order)
        if not dense.is_contiguous():
            return NotImplemented
        elements = b""
        if obj.numel():
            elements = dense.reshape(-1).view(torch.uint8).cpu().numpy().tobytes()
        shape = tuple(dense.shape)
        return _tensor, (elements, obj.dtype, shape, order, obj.requires_grad, obj.device.type)


class _Unpickler(pickle.Unpickler):
    """Reads tensors that lay on a device back onto ``device``."""

    def __init__(self, blob: bytes, device: torch.device) -> None:
        super().__init__(io.BytesIO(blob))
        self._device = device

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the bytes stands for."""
        if (module, name) == (_tensor.__module__, _tensor.__name__):
            return partial(_tensor, self._device)
        return super().find_class(module, name)


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        tensor.device.type in ("cpu", "cuda")
        and tensor.layout is torch.strided
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
        and not (tensor.__dict__ or tensor._backward_hooks)
    )


def _tensor(  # noqa: PLR0913 - what a tensor is, as the bytes have it
    device: torch.device,
    elements: bytes,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    order: list[int],
    requires_grad: bool,
    device_type: str,
) -> torch.Tensor:
    if elements:
        flat = torch.frombuffer(bytearray(elements), dtype=dtype)
    else:
        flat = torch.empty(0, dtype=dtype, device="cpu")
    back = sorted(range(len(order)), key=order.__getitem__)
    placed = flat.to(device) if device_type == device.type else flat
    return placed.reshape(shape).permute(back).requires_grad_(requires_grad)


def encode(name: str, value: Any) -> bytes:
    """Pickles; raises LayoutError naming the value when it cannot be pickled."""
    out = io.BytesIO()
    try:
        _Pickler(out).dump(value)
    except Exception as error:  # whatever the user's objects raise
        raise LayoutError(
            f"adapters: the state of {name} cannot be pickled: {error}\n"
            "  nothing was moved; the source state is intact\n"
            "  return plain data from its state_dict()"
        ) from error
    return out.getvalue()


def decode(blob: bytes, device: torch.device = _HOST) -> Any:
    """Reads what :func:`encode` made; tensors from a device of this kind come to ``device``."""
    try:
        return _Unpickler(blob, device).load()
    except Exception as error:  # whatever the user's objects raise
        raise LayoutError(
            f"adapters: a value cannot be read back: {type(error).__name__}: {error}\n"
            "  nothing was moved; the source state is intact\n"
            "  return plain data from state_dict()"
        ) from error
