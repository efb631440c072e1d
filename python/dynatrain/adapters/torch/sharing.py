"""Several tensor objects over one memory: views of a flat one, overlapping ones, ``.data`` ties.

A rank that adopts memory keeps the sharing by itself; one that receives gets one memory, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import torch

from dynatrain._errors import LayoutError
from dynatrain._torch_private.tensors import local_tensor
from dynatrain.adapters.port import SlotNote
from dynatrain.adapters.torch.blocks import Blocks
from dynatrain.adapters.torch.placing import read_as, span_bytes

#: First words of notes: tensors lie in one memory; elements of them are the same. Names follow.
SHARED, OVERLAP = "one memory", "same elements"
#: Local tensors by name, all in one storage.
Group = dict[str, torch.Tensor]
#: Where elements lie: a storage and a place there; a tensor that has none, and 0.
Memory = tuple[int, int]


def memory_of(tensor: torch.Tensor) -> Memory:
    """Where the elements of a living tensor lie; one object under several names has one memory."""
    if not _reach(tensor):
        return id(tensor), 0
    local = local_tensor(tensor)
    return local.untyped_storage()._cdata, int(local.storage_offset())


def groups(tensors: Iterable[tuple[str, torch.Tensor]]) -> list[Group]:
    """Local tensors of different objects that lie in one storage; one object may have two names."""
    return [group for group, num_objects in _by_storage(tensors) if num_objects > 1]


def _by_storage(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[Group, int]]:
    """The tensors of each storage, and how many objects they are."""
    found: dict[int, Group] = {}
    objects: dict[int, set[int]] = {}
    for name, tensor in tensors:
        if not _reach(tensor):
            continue
        local = local_tensor(tensor)
        storage = local.untyped_storage()._cdata
        found.setdefault(storage, {})[name] = local
        objects.setdefault(storage, set()).add(id(tensor))
    return ((group, len(objects[storage])) for storage, group in found.items())


def _reach(tensor: torch.Tensor) -> bool:
    """Whether a tensor has elements in one memory: an empty shard shares them with nobody."""
    local = local_tensor(tensor)
    return local.layout is torch.strided and not local.is_nested and local.numel() > 0


def _reaching(note: SlotNote, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The names in a note under which ``tensors`` has elements."""
    names = (str(name) for name in note[1:])
    return [name for name in names if name in tensors and _reach(tensors[name])]


def notes(tensors: Iterable[tuple[str, torch.Tensor]], tied: Collection[str] = ()) -> set[SlotNote]:
    """What a source says of its groups; ``tied`` are second names, which may come apart."""
    listed = list(tensors)
    alone = ((name, tensor) for name, tensor in listed if name not in tied)
    overlapping = (names for group, _ in _by_storage(alone) for names in _overlapping(group))
    return {(SHARED, *sorted(group)) for group in groups(listed)} | {
        (OVERLAP, *sorted(names)) for names in overlapping
    }


def _overlapping(group: Group) -> Iterator[set[str]]:
    """The names in a group whose tensors reach over each other, together."""
    spans = sorted((*span_bytes(local), name) for name, local in group.items())
    names: set[str] = set()
    end = 0
    for begin, last, name in spans:
        if begin >= end and names:
            if len(names) > 1:
                yield names
            names = set()
        names.add(name)
        end = max(end, last)
    if len(names) > 1:
        yield names


def check_kept(target: Mapping[str, torch.Tensor], said: Collection[SlotNote]) -> None:
    """Raises LayoutError when the source has one memory for what the target keeps apart.

    A step may have made it so, as ``main = param.detach()`` does: writes through one would reach
    the other before the switch and not after it.

    Args:
        target: the objects of a state built on meta, by name, its slots among them.
        said: what the source noted.
    """
    together = {
        name: number for number, group in enumerate(groups(target.items())) for name in group
    }
    for note in said:
        names = _reaching(note, target)
        if note[0] != OVERLAP or len({id(target[name]) for name in names}) < 2:
            continue
        if len({together.get(name, name) for name in names}) > 1:
            raise LayoutError(
                f"materialize: {names} lie in one memory in the source, not after build\n"
                "  expected the same sharing in both: what is written to one reaches the other\n"
                "  nothing was switched; the source state is intact\n"
                "  keep a copy, such as param.detach().clone(), or make them share in build"
            )


def check_alike(source: Mapping[str, torch.Tensor], said: Collection[SlotNote]) -> None:
    """Raises LayoutError when other ranks have one memory for what this one keeps apart.

    Args:
        source: the objects of this rank's present state, by name.
        said: what all ranks noted.
    """
    for note in said:
        if note[0] != OVERLAP:
            continue
        names = _reaching(note, source)
        if len({local_tensor(source[name]).untyped_storage()._cdata for name in names}) > 1:
            raise LayoutError(
                f"materialize: {names} lie in one memory on other ranks of the source, and apart "
                "on this one\n"
                "  expected the same sharing on all ranks: one content could not serve both\n"
                "  nothing was switched; the source state is intact\n"
                "  keep a copy, such as param.detach().clone(), on all ranks or on none"
            )


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
                "  nothing was switched; the source state is intact\n"
                "  make them separate tensors in build, or one tensor under both names"
            )


def lent_together(group: Group, lent: Mapping[str, torch.Tensor]) -> bool:
    """Whether memory that the source lends is one memory, so that adopting keeps the sharing."""
    if not group.keys() <= lent.keys():
        return False
    return len({lent[name].untyped_storage()._cdata for name in group}) == 1


def check_still_shared(together: Iterable[Group], tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises LayoutError when what was placed in one memory lies there no more.

    Args:
        together: what was placed, by name.
        tensors: the objects of the state as they are now, by name.
    """
    for group in together:
        if len({local_tensor(tensors[name]).untyped_storage()._cdata for name in group}) > 1:
            raise LayoutError(
                f"materialize: {sorted(group)} lie in one memory after build, and fully_shard "
                "has copied one of them out of it\n"
                "  expected it to read its shards where they lie\n"
                "  nothing was switched; the source state is intact\n"
                "  lay nothing over parameters of which fully_shard keeps a copy, such as a "
                "pinned one"
            )


def fresh_together(
    group: Group, device: torch.device, room_bytes: Mapping[str, int], blocks: Blocks | None
) -> dict[str, torch.Tensor]:
    """Zeroed memory for a group, one for all, each at its offset with ``room_bytes`` behind it."""
    num_bytes = max(
        max(span_bytes(local)[1], span_bytes(local)[0] + room_bytes.get(name, 0))
        for name, local in group.items()
    )
    if blocks is not None and device.type == "cpu":
        whole = blocks.take(num_bytes)
    else:
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
