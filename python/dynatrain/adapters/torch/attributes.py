"""Tensors that hang on a parameter: ``param.main_grad`` and its like, mapped as slots.

The slot of an attribute is its name with a dot before it, which no optimizer's slot has. Both kinds
of slots may be plain tensors beside a DTensor, and are to be so in the target.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor

from dynatrain._errors import LayoutError
from dynatrain._torch_private.tensors import local_tensor
from dynatrain.adapters.port import SlotNote
from dynatrain.adapters.torch.meaning import digest
from dynatrain.adapters.torch.placing import wrap_like

#: First word of the note that a parameter has a tensor that no map says; FQN, name and what it
#: holds follow.
UNMAPPED = "unmapped attribute"
#: First word of the note of what an attribute or an optimizer's slot is beside the parameters of a
#: rank that are DTensors; its name, a kind of those below, and the FQNs where it is plain, if it is
#: not so everywhere, follow. A plain attribute is a shard, a plain slot is whole.
KIND = "kind of attribute"
_PLAIN, _DTENSOR, _MIXED = "plain", "DTensor", "mixed"
_OF_DTENSOR = ("_local_tensor", "_spec")


@dataclass(frozen=True)
class Kind:
    """Where an attribute or a slot is plain: everywhere, or on these FQNs."""

    everywhere: bool
    fqns: frozenset[Hashable]


def is_attribute(slot: str) -> bool:
    """Whether a slot is a parameter's attribute and not an optimizer's."""
    return slot.startswith(".")


def tensors_on(param: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors among a parameter's attributes, by slot."""
    for name, value in vars(param).items():
        if isinstance(value, torch.Tensor) and name not in _OF_DTENSOR:
            yield f".{name}", value


def as_mapped(param: torch.Tensor, value: torch.Tensor) -> torch.Tensor | None:
    """An attribute as a map says it: of the parameter's shape, or a scalar; None for others.

    A plain tensor beside a shard is cut as the shard is when it has its shape.
    """
    if isinstance(value, DTensor) or not value.dim():
        return value
    if isinstance(param, DTensor):
        is_shard = value.shape == local_tensor(param).shape
        return wrap_like(param, value.detach()) if is_shard else None
    return value if value.shape == param.shape else None


def kinds(found: Collection[tuple[str, str, torch.Tensor, torch.Tensor]]) -> set[SlotNote]:
    """What a rank says of attributes and slots: FQN, slot, parameter, tensor of each in ``found``.

    A parameter that is whole does not tell; what a switch has put there remembers it.
    """
    plain: dict[str, list[str]] = {}
    sharded: set[str] = set()
    for fqn, slot, param, value in found:
        if isinstance(value, DTensor):
            sharded.add(slot)
        elif value.dim() and (isinstance(param, DTensor) or "dynatrain_plain" in vars(value)):
            plain.setdefault(slot, []).append(fqn)
    only = {(KIND, slot, _PLAIN) for slot in plain.keys() - sharded}
    both = {(KIND, slot, _MIXED, *plain[slot]) for slot in plain.keys() & sharded}
    return only | both | {(KIND, slot, _DTENSOR) for slot in sharded - plain.keys()}


def kinds_of_source(notes: Collection[SlotNote]) -> dict[str, Kind]:
    """What all ranks of the source say of each slot, by slot.

    Raises:
        LayoutError: one rank has a plain tensor where another one has a DTensor.
    """
    found: dict[str, set[tuple[Hashable, ...]]] = {}
    for _, slot, *said in (note for note in notes if note[0] == KIND):
        found.setdefault(str(slot), set()).add(tuple(said))
    kind_of = {}
    for slot, said_of in found.items():
        words = {kind for kind, *_ in said_of}
        if _PLAIN in words and len(words) > 1:
            where = f"param{slot}" if is_attribute(slot) else f"state[param][{slot!r}]"
            raise LayoutError(
                f"materialize: {where} is a plain tensor on some ranks of the source and a "
                "DTensor on others\n"
                "  expected one of them for all parameters that are DTensors\n"
                "  nothing was switched; the source state is intact\n"
                f"  make {where} alike on all ranks"
                f"{', or make it in build' if is_attribute(slot) else ''}"
            )
        kind_of[slot] = Kind(_PLAIN in words, frozenset(fqn for _, *own in said_of for fqn in own))
    return kind_of


def is_plain(kind_of: Mapping[str, Kind], slot: str, fqn: str) -> bool:
    """Whether the source has a plain tensor beside the DTensor ``fqn``, or had when it was one."""
    kind = kind_of.get(slot)
    return kind is not None and (kind.everywhere or fqn in kind.fqns)


def remember_plain(value: torch.Tensor) -> None:
    """Lets a tensor beside a parameter that may be whole now say what it was beside a DTensor."""
    value.dynatrain_plain = True  # type: ignore[attr-defined]


def put_on(param: torch.Tensor, slot: str, value: torch.Tensor, *, plain: bool) -> None:
    """Hangs a tensor that is cut as ``param`` on it; ``plain`` for the shard alone."""
    if plain and value.dim():
        value = local_tensor(value)
        remember_plain(value)
    setattr(param, slot[1:], value)


def content_of(value: torch.Tensor) -> str:
    """Tells what a tensor holds; empty where it has no memory."""
    return "" if local_tensor(value).is_meta else digest(local_tensor(value)).hex()


def unmapped_of_source(notes: Collection[SlotNote]) -> dict[str, list[tuple[str, Hashable]]]:
    """Slot and content of each tensor of the source that no map says, by FQN."""
    found: dict[str, list[tuple[str, Hashable]]] = {}
    for _, fqn, slot, content in (note for note in notes if note[0] == UNMAPPED):
        found.setdefault(str(fqn), []).append((str(slot), content))
    return found


def check_unmapped(
    fqn: str, param: torch.Tensor, unmapped: Collection[tuple[str, Hashable]]
) -> None:
    """Raises LayoutError when a tensor of the source that no map says would be lost."""
    for slot, content in unmapped:
        made = vars(param).get(slot[1:])
        if not isinstance(made, torch.Tensor) or content_of(made) != content:
            raise LayoutError(
                f"materialize: the parameter {fqn!r} has a tensor {slot} in the source that "
                "build does not make\n"
                f"  expected the parameter's shape {list(param.shape)}, or a scalar: such "
                "attributes move with the parameter\n"
                "  nothing was switched; the source state is intact\n"
                f"  delete it before the switch (del param{slot}), keep it as a buffer, or leave "
                "it as build makes it"
            )
