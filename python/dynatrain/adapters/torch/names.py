"""Logical names: ``"<fqn>|<slot>"``, the same in every layout; FQNs follow torch's checkpoints."""

from __future__ import annotations

import torch
from torch import nn

from dynatrain._errors import LayoutError

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
PARAM, BUFFER = "param", "buffer"


def clean_fqn(name: str) -> str:
    """Strips what ``torch.compile``, activation checkpointing and DDP wrap into names."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def check_slot(fqn: str, slot: str) -> None:
    """Raises LayoutError when an optimizer names a slot as other tensors of a map are named."""
    if slot not in (PARAM, BUFFER) and not slot.startswith(".") and "|" not in slot:
        return
    raise LayoutError(
        f"adapters: an optimizer's state for {fqn!r} has a slot named {slot!r}\n"
        f"  expected none of {PARAM!r} and {BUFFER!r}, no '.' at the head and no '|': such names "
        "tell other tensors\n"
        "  nothing was switched; the source state is intact\n"
        '  rename the slot: optimizer.state[param]["..."] under another name'
    )


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without ``torch.``."""
    return str(dtype).removeprefix("torch.")


def dtype_named(text: str, name: str) -> torch.dtype:
    """The dtype that a map says of ``name``, for memory that is made where build made none.

    Raises:
        LayoutError: it says how bytes are read as well (``complex64.conj``), or torch has no such.
    """
    dtype = getattr(torch, text, None)
    if isinstance(dtype, torch.dtype):
        return dtype
    raise LayoutError(
        f"materialize: {name!r} is a tensor of {text} that build does not make\n"
        "  expected a dtype of torch: a conjugate or negative view is read by a rule of its own\n"
        "  nothing was switched; the source state is intact\n"
        "  keep it as resolve_conj() and resolve_neg() give it, or make it in build"
    )


def unwrapped(module: nn.Module) -> nn.Module:
    """The module that ``DistributedDataParallel`` wraps, any other as it is."""
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module
