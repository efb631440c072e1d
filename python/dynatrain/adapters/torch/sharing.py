"""Several tensor objects over one memory: views of a flat one, overlapping ones, ``.data`` ties.

A rank that adopts memory keeps the sharing by itself; one that receives gets one memory, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch

from dynatrain._errors import LayoutError
from dynatrain._torch_private import local_tensor
from dynatrain.adapters.port import SlotNote
from dynatrain.adapters.torch.placing import read_as

#: First word of the note that tensors lie in one memory; their names follow.
SHARED = "one memory"
#: Local tensors by name, all in one storage.
Group = dict[str, torch.Tensor]


def groups(tensors: Iterable[tuple[str, torch.Tensor]]) -> list[Group]:
    """Local tensors of different objects that lie in one storage; one object may have two names."""
    by_storage: dict[int, Group] = {}
    objects: dict[int, set[int]] = {}
    for name, tensor in tensors:
        local = local_tensor(tensor)
        if local.layout is not torch.strided or local.is_nested or not local.numel():
            continue
        storage = local.untyped_storage()._cdata
        by_storage.setdefault(storage, {})[name] = local
        objects.setdefault(storage, set()).add(id(tensor))
    return [group for storage, group in by_storage.items() if len(objects[storage]) > 1]


def notes(tensors: Iterable[tuple[str, torch.Tensor]]) -> set[SlotNote]:
    """What a source says of its groups."""
    return {(SHARED, *sorted(group)) for group in groups(tensors)}


def check_shared_in_source(
    tensors: Iterable[tuple[str, torch.Tensor]], said: Collection[SlotNote]
) -> None:
    """Raises LayoutError when the target has one memory for what the source keeps apart."""
    in_source = [frozenset(note[1:]) for note in said if note[0] == SHARED]
    for group in groups(tensors):
        if not any(group.keys() <= names for names in in_source):
            raise LayoutError(
                f"materialize: {sorted(group)} lie in one memory after build, not in the source\n"
                "  expected the same sharing in both: only one of the contents could arrive\n"
                "  nothing was moved; the source state is intact\n"
                "  make them separate tensors in build, or one tensor under both names"
            )


def lent_together(group: Group, lent: Mapping[str, torch.Tensor]) -> bool:
    """Whether memory that the source lends is one memory, so that adopting keeps the sharing."""
    if not group.keys() <= lent.keys():
        return False
    return len({lent[name].untyped_storage()._cdata for name in group}) == 1


def fresh_together(group: Group, device: torch.device) -> dict[str, torch.Tensor]:
    """Zeroed memory for a group, one for all, each at its offset."""
    num_bytes = max(map(_end_bytes, group.values()))
    whole = torch.zeros(num_bytes, dtype=torch.uint8, device=device).untyped_storage()
    return {
        name: read_as(
            torch.empty(0, dtype=local.dtype, device=device).set_(
                whole, local.storage_offset(), tuple(local.shape), local.stride()
            ),
            local,
        )
        for name, local in group.items()
    }


def _end_bytes(local: torch.Tensor) -> int:
    last = sum((size - 1) * step for size, step in zip(local.shape, local.stride(), strict=True))
    return int(local.storage_offset() + last + 1) * local.element_size()
