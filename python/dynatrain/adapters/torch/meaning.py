"""What values mean: equal numbers, texts and elements, however and wherever they are written.

Bytes do not say it. Equal options pickle differently when one text is the same object twice, a
learning rate may be a tensor, and a NaN is not equal to itself.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from dynatrain._torch_private.tensors import local_tensor

_NOTHING = object()
_SEQUENCES = (list, tuple, deque)


def digest(value: Any) -> bytes:
    """Equal for values that mean the same: 32 bytes."""
    return hashlib.sha256(_canonical(value, ())).digest()


def difference(first: Any, second: Any) -> str | None:
    """Where two values differ first, as ``".betas.0: 0.9 and 0.8"``; None when they mean the same.

    Numbers are compared as numbers, lists and tuples by their items, dicts and sets without order,
    tensors by dtype, shape and bits, other objects by their class and what they hold.
    """
    if first is second or digest(first) == digest(second):
        return None
    for key, one, other in _paired(first, second):
        if one is _NOTHING or other is _NOTHING:
            return f".{key}: {_short(one)} and {_short(other)}"
        below = difference(one, other)
        if below is not None:
            return f".{key}{below}"
    return f": {_unlike(first, second) or f'{_short(first)} and {_short(second)}'}"


def _unlike(first: Any, second: Any) -> str | None:
    """Where two tensors that look the same differ; None of what looks different."""
    both = isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)
    if not both or _short(first) != _short(second) or first.is_meta or second.is_meta:
        return None
    try:
        one, other = (each.detach().cpu().contiguous().reshape(-1) for each in (first, second))
        differing = (one.view(torch.uint8) != other.view(torch.uint8)).nonzero()
        if not len(differing):
            return None
        at = int(differing[0]) // one.element_size()
        place = [int(index) for index in torch.unravel_index(torch.tensor(at), first.shape)]
        values = f"{_short(one[at].item())} and {_short(other[at].item())}"
    except (RuntimeError, NotImplementedError, TypeError):
        return None  # no dense elements, or of a dtype that torch cannot print
    return f"{_short(first)} each, the first element that differs is {place}: {values}"


def _paired(first: Any, second: Any) -> Iterator[tuple[Any, Any, Any]]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in dict.fromkeys([*first, *second]):
            yield key, first.get(key, _NOTHING), second.get(key, _NOTHING)
        return
    both = isinstance(first, _SEQUENCES) and isinstance(second, _SEQUENCES)
    if both and len(first) == len(second):
        for place, (one, other) in enumerate(zip(first, second, strict=True)):
            yield place, one, other


def _short(value: Any) -> str:
    if value is _NOTHING:
        return "nothing"
    if isinstance(value, torch.Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _tagged(tag: str, *parts: bytes) -> bytes:
    return b"".join([tag.encode(), *(len(p).to_bytes(8, "little") + p for p in parts)])


def _canonical(value: Any, above: tuple[int, ...]) -> bytes:
    """Bytes of a value; ``above`` are the ids of what holds it, so that a ring ends."""
    plain = _plain(value)
    if plain is not None:
        return plain
    if id(value) in above:
        return _tagged("ring", str(len(above) - above.index(id(value))).encode())
    inside = (*above, id(value))
    if isinstance(value, Mapping):
        pairs = ((_canonical(k, inside), _canonical(v, inside)) for k, v in value.items())
        return _tagged("dict", *(_tagged("pair", k, v) for k, v in sorted(pairs)))
    if isinstance(value, list | tuple):
        return _tagged("list", *(_canonical(item, inside) for item in value))
    if isinstance(value, AbstractSet):
        return _tagged("set", *sorted(_canonical(item, inside) for item in value))
    return _object(value, inside)


def _plain(value: Any) -> bytes | None:
    if value is None:
        return b"none"
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if hasattr(value, "__array__") and hasattr(value, "tobytes") and hasattr(value, "dtype"):
        return _array(value)
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, str):
        return _tagged("text", value.encode("utf-8", "surrogatepass"))
    if isinstance(value, bytes | bytearray):
        return _tagged("bytes", bytes(value))
    return None


def _number(value: float) -> bytes:
    if isinstance(value, int):
        return _tagged("number", str(int(value)).encode())
    whole = value.is_integer() and str(value) != "-0.0"
    return _tagged("number", str(int(value)).encode() if whole else struct.pack("<d", value))


def _tensor(tensor: torch.Tensor) -> bytes:
    local = local_tensor(tensor)
    head = f"{tensor.dtype}{tuple(tensor.shape)}{tuple(local.shape)}".encode()
    is_dense = local.layout is torch.strided and not (local.is_quantized or local.is_nested)
    wraps = is_traceable_wrapper_subclass(local)
    if local.is_meta or wraps or not is_dense:
        return _tagged("tensor", head, pickle.dumps(local))
    dense = local.resolve_conj().resolve_neg().to("cpu").contiguous().reshape(-1)
    elements = dense.view(torch.uint8).numpy().tobytes() if dense.numel() else b""
    return _tagged("tensor", head, elements)


def _array(value: Any) -> bytes:
    """An array of numpy, or a scalar of it, which is the number that it holds."""
    if getattr(value, "ndim", 1) == 0 and value.dtype.kind in "biuf":
        return _number(value.item())
    if value.dtype.hasobject:
        return _tagged("array", str(value.shape).encode(), _canonical(value.tolist(), ()))
    return _tagged("array", f"{value.dtype}{value.shape}".encode(), value.tobytes())


def _object(value: Any, above: tuple[int, ...]) -> bytes:
    name = f"{type(value).__module__}.{type(value).__qualname__}".encode()
    if isinstance(value, type) or callable(getattr(value, "__get__", None)):
        own = getattr(value, "__qualname__", None)
        if own is not None:
            return _tagged("named", f"{getattr(value, '__module__', '')}.{own}".encode())
    try:
        parts = value.__reduce_ex__(4)
    except Exception:  # noqa: BLE001 - whatever cannot be taken apart is told by what it shows
        return _tagged("object", name, repr(value).encode())
    if isinstance(parts, str):
        return _tagged("named", name, parts.encode())
    held = [list(item) if isinstance(item, Iterator) else item for item in parts[1:]]
    return _tagged("object", name, _canonical(held, above))
