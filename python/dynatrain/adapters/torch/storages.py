"""The storages behind tensors, one for all that lie in it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dynatrain._torch_private.tensors import local_tensor, storage_key
from dynatrain.adapters.port import Storages
from dynatrain.adapters.torch.placing import read_as


def storages_of(tensors: Mapping[str, torch.Tensor], emptied: Mapping[int, int]) -> Storages:
    """Where tensors lie, by name; those on meta lie nowhere.

    Args:
        tensors: of one rank.
        emptied: sizes of storages that are empty for now, by their keys.
    """
    each: list[torch.UntypedStorage] = []
    size_bytes: list[int] = []
    numbers: dict[int, int] = {}
    of_tensor: dict[str, tuple[int, int]] = {}
    for name, tensor in tensors.items():
        local = local_tensor(tensor)
        if local.is_meta:
            continue
        storage = local.untyped_storage()
        number = numbers.setdefault(storage_key(storage), len(each))
        if number == len(each):
            each.append(storage)
            size_bytes.append(emptied.get(storage_key(storage), storage.nbytes()))
        of_tensor[name] = number, int(local.storage_offset()) * local.element_size()
    fixed = frozenset(n for n, storage in enumerate(each) if not storage.resizable())
    return Storages(each, list(numbers), size_bytes, of_tensor, fixed)


def without_memory(local: torch.Tensor, emptied: Mapping[int, int]) -> torch.Tensor:
    """``local`` as it would be on meta where its storage is empty for now, else itself."""
    if not emptied or local.is_meta or storage_key(local.untyped_storage()) not in emptied:
        return local
    shape, strides = tuple(local.shape), local.stride()
    return read_as(torch.empty_strided(shape, strides, dtype=local.dtype, device="meta"), local)


def empty(storage: torch.UntypedStorage, emptied: dict[int, int]) -> None:
    """Gives the memory of a storage back, and notes its size by its key."""
    if storage_key(storage) not in emptied:
        emptied[storage_key(storage)] = storage.nbytes()
        storage.resize_(0)
