"""Logical names: ``"<fqn>|<slot>"``, the same in every layout; FQNs follow torch's checkpoints."""

from __future__ import annotations

import torch
from torch import nn

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
PARAM, BUFFER = "param", "buffer"


def clean_fqn(name: str) -> str:
    """Strips what ``torch.compile``, activation checkpointing and DDP wrap into names."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without ``torch.``."""
    return str(dtype).removeprefix("torch.")


def unwrapped(module: nn.Module) -> nn.Module:
    """The module that ``DistributedDataParallel`` wraps, any other as it is."""
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module
