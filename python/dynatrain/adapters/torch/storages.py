"""The storages behind tensors, one for all that lie in it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dynatrain._torch_private.tensors import local_tensor, storage_key
from dynatrain.adapters.port import Storages
from dynatrain.adapters.torch.placing import read_as

#: Storages that are empty for now, by key: they live on, so that no other one gets the key.
Emptied = dict[int, tuple[torch.UntypedStorage, int]]


def storages_of(tensors: Mapping[str, torch.Tensor], emptied: Emptied) -> Storages:
    """Where tensors lie, by name; those on meta lie nowhere."""
    each: list[torch.UntypedStorage] = []
    size_bytes: list[int] = []
    numbers: dict[int, int] = {}
    of_tensor: dict[str, tuple[int, int]] = {}
    parts: dict[int, set[tuple[int, int]]] = {}
    for name, tensor in tensors.items():
        local = local_tensor(tensor)
        if local.is_meta:
            continue
        storage = local.untyped_storage()
        key = storage_key(storage)
        number = numbers.setdefault(key, len(each))
        if number == len(each):
            each.append(storage)
            size_bytes.append(emptied[key][1] if key in emptied else storage.nbytes())
        begin = int(local.storage_offset()) * local.element_size()
        of_tensor[name] = number, begin
        parts.setdefault(number, set()).add((begin, local.nbytes))
    return Storages(
        each,
        list(numbers),
        size_bytes,
        of_tensor,
        fixed=frozenset(n for n, storage in enumerate(each) if not storage.resizable()),
        empty=frozenset(n for key, n in numbers.items() if key in emptied),
        gaps=frozenset(
            n for n, found in parts.items() if sum(size for _, size in found) < size_bytes[n]
        ),
    )


def without_memory(local: torch.Tensor, emptied: Emptied) -> torch.Tensor:
    """``local`` as it would be on meta where its storage is empty for now, else itself."""
    if not emptied or local.is_meta or storage_key(local.untyped_storage()) not in emptied:
        return local
    shape, strides = tuple(local.shape), local.stride()
    return read_as(torch.empty_strided(shape, strides, dtype=local.dtype, device="meta"), local)


def empty(storage: torch.UntypedStorage, emptied: Emptied) -> None:
    """Gives the memory of a storage back, and notes its size."""
    if storage_key(storage) not in emptied:
        emptied[storage_key(storage)] = storage, storage.nbytes()
        storage.resize_(0)
