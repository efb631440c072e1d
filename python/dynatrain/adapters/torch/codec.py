"""Values as bytes that say what a value is, and not where it lies."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch

from dynatrain._errors import LayoutError


class _Pickler(pickle.Pickler):
    """Pickles tensors in host memory by their elements alone.

    torch writes the address of a tensor's memory beside its bytes: what is equal on all ranks would
    differ between any two of them.
    """

    def reducer_override(self, obj: Any) -> Any:
        """How a plain dense tensor is written; everything else as always."""
        if type(obj) is not torch.Tensor or not _is_plain(obj):
            return NotImplemented
        order = sorted(range(obj.dim()), key=obj.stride, reverse=True)
        dense = obj.detach().permute(order)
        if not dense.is_contiguous():
            return NotImplemented
        elements = dense.reshape(-1).view(torch.uint8).numpy().tobytes() if obj.numel() else b""
        return _tensor, (elements, obj.dtype, tuple(dense.shape), order, obj.requires_grad)


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
        and not (tensor.__dict__ or tensor._backward_hooks)
    )


def _tensor(
    elements: bytes,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    order: list[int],
    requires_grad: bool,
) -> torch.Tensor:
    if elements:
        flat = torch.frombuffer(bytearray(elements), dtype=dtype)
    else:
        flat = torch.empty(0, dtype=dtype, device="cpu")
    back = sorted(range(len(order)), key=order.__getitem__)
    return flat.reshape(shape).permute(back).requires_grad_(requires_grad)


def encode(name: str, value: Any) -> bytes:
    """Pickles; raises LayoutError naming the value when it cannot be pickled."""
    out = io.BytesIO()
    try:
        _Pickler(out).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise LayoutError(
            f"adapters: the state of {name} cannot be pickled: {error}\n"
            "  nothing was moved; the source state is intact\n"
            "  return plain data from its state_dict()"
        ) from error
    return out.getvalue()


def decode(blob: bytes) -> Any:
    """Reads what :func:`encode` made."""
    return pickle.loads(blob)
