"""Values as bytes that say what a value is, and not where it lies.

They are pickled, and read without running code: by name only what ``torch.load(weights_only=True)``
takes, what scripts have added to it (``torch.serialization.add_safe_globals``), and plain values of
Python and numpy. What could not be read is refused where it is written.
"""

from __future__ import annotations

import io
import pickle
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any, TypeVar

import torch
from torch.distributed.tensor import DTensor

from dynatrain._errors import LayoutError
from dynatrain._torch_private.tensors import safe_globals, storage_of
from dynatrain.given import described, said

_HOST = torch.device("cpu")
_Kind = TypeVar("_Kind", bound=type)


class _Pickler(pickle.Pickler):
    """Pickles tensors in host memory by their elements alone.

    torch writes the address of a tensor's memory beside its bytes: what is equal on all ranks would
    differ between any two of them.
    """

    def __init__(self, out: io.BytesIO) -> None:
        super().__init__(out)
        self._known = _readable()

    def reducer_override(self, obj: Any) -> Any:
        """How a plain dense tensor is written; everything else as always, where it can be read."""
        if isinstance(obj, type | FunctionType | BuiltinFunctionType):
            name = f"{obj.__module__}.{obj.__qualname__}"
            if name not in self._known:
                raise TypeError(f"it holds {name}, which no other rank would read")
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
        self._known = _readable()

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the bytes stands for."""
        full = f"{module}.{name}"
        if full == _OWN:
            return partial(_tensor, self._device)
        if full not in self._known:
            raise pickle.UnpicklingError(f"{full} is none of the names that are read")
        return self._known[full] or super().find_class(module, name)


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


_OWN = f"{_tensor.__module__}.{_tensor.__qualname__}"
#: Plain values that torch's own list lacks.
_PLAIN = [
    "builtins.bool",
    "builtins.bytearray",
    "builtins.bytes",
    "builtins.complex",
    "builtins.dict",
    "builtins.float",
    "builtins.frozenset",
    "builtins.int",
    "builtins.list",
    "builtins.range",
    "builtins.set",
    "builtins.slice",
    "builtins.str",
    "builtins.tuple",
    "collections.Counter",
    "collections.OrderedDict",
    "collections.defaultdict",
    "collections.deque",
    "copyreg.__newobj__",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "datetime.timezone",
    "decimal.Decimal",
    "fractions.Fraction",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
    "numpy._core.numeric._frombuffer",
]


_kinds: dict[str, type] = {}


def readable(kind: _Kind) -> _Kind:
    """Lets values of a class of the adapter's own be sent."""
    _kinds[f"{kind.__module__}.{kind.__qualname__}"] = kind
    return kind


def _readable() -> dict[str, Any]:
    """What may be read by name; None where Python is asked for it."""
    known = {**dict.fromkeys([*_PLAIN, _OWN]), **_kinds}
    return {**known, **safe_globals(), "torch.storage._load_from_bytes": storage_of}


def encode(name: str, value: Any) -> bytes:
    """Pickles; raises LayoutError naming the value when other ranks could not read it."""
    out = io.BytesIO()
    try:
        _Pickler(out).dump(value)
    except Exception as error:  # whatever the user's objects raise
        raise LayoutError(
            f"adapters: the state of {name} cannot be sent: {said(error)}\n"
            "  expected tensors and plain values: other ranks read it without running code\n"
            "  nothing was switched; the source state is intact\n"
            "  return plain data from its state_dict(), or call "
            "torch.serialization.add_safe_globals([...]) with its class on every rank"
        ) from error
    return out.getvalue()


def decode(blob: bytes, device: torch.device = _HOST) -> Any:
    """Reads what :func:`encode` made; tensors from a device of this kind come to ``device``."""
    try:
        return _Unpickler(blob, device).load()
    except Exception as error:  # whatever the user's objects raise
        raise LayoutError(
            f"adapters: a value cannot be read back: {described(error)}\n"
            "  expected what a rank with the same classes and versions has written\n"
            "  nothing was switched; the source state is intact\n"
            "  return plain data from state_dict()"
        ) from error
