"""Tensors that hang on a parameter: ``param.main_grad`` and its like, mapped as slots.

The slot of an attribute is its name with a dot before it, which no optimizer's slot has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch.distributed.tensor import DTensor

from dynatrain._errors import LayoutError
from dynatrain._torch_private import local_tensor
from dynatrain.adapters.port import SlotNote
from dynatrain.adapters.torch.meaning import digest
from dynatrain.adapters.torch.placing import wrap_like

#: First word of the note that a parameter has a tensor that no map says; FQN, name and what it
#: holds follow.
UNMAPPED = "unmapped attribute"
_OF_DTENSOR = ("_local_tensor", "_spec")


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


def content_of(value: torch.Tensor) -> str:
    """Tells what a tensor holds; empty where it has no memory."""
    return "" if local_tensor(value).is_meta else digest(local_tensor(value)).hex()


def check_unmapped(fqn: str, param: torch.Tensor, notes: Collection[SlotNote]) -> None:
    """Raises LayoutError when a tensor of the source that no map says would be lost."""
    for _, owner, slot, content in (n for n in notes if n[0] == UNMAPPED and n[1] == fqn):
        made = vars(param).get(str(slot)[1:])
        if not isinstance(made, torch.Tensor) or content_of(made) != content:
            raise LayoutError(
                f"materialize: the parameter {owner!r} has a tensor {slot} in the source that "
                "build does not make\n"
                f"  expected the parameter's shape {list(param.shape)}, or a scalar: such "
                "attributes move with the parameter\n"
                "  nothing was moved; the source state is intact\n"
                f"  delete it before the switch (del param{slot}), keep it as a buffer, or leave "
                "it as build makes it"
            )
