"""Attributes that torch's own hooks compute from parameters ahead of every forward pass.

``torch.nn.utils.weight_norm`` and ``spectral_norm`` in their older form, and ``prune``, keep such a
tensor beside the parameters. It is no state: it is made anew from what has arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from dynatrain._torch_private.tensors import local_tensor
from dynatrain.adapters.torch.placing import fresh
from dynatrain.train_state import TrainState

#: The module, the name of the attribute, and what computes it.
_Derived = tuple[nn.Module, str, Callable[[], torch.Tensor]]


def _derived(state: TrainState) -> Iterator[_Derived]:
    for _, module in state.named_modules():
        for child in module.modules():
            for hook in child._forward_pre_hooks.values():
                if isinstance(hook, WeightNorm):
                    yield child, hook.name, partial(hook.compute_weight, child)
                elif isinstance(hook, SpectralNorm):
                    # The iteration belongs to a step: it moves a buffer.
                    yield child, hook.name, partial(hook.compute_weight, child, False)
                elif isinstance(hook, BasePruningMethod):
                    yield child, hook._tensor_name, partial(hook.apply_mask, child)


def tensors(state: TrainState) -> Iterator[torch.Tensor]:
    """The derived attributes as they are."""
    for module, name, _ in _derived(state):
        value = vars(module).get(name)
        if isinstance(value, torch.Tensor):
            yield value


def give_memory(state: TrainState, device: torch.device) -> None:
    """Puts memory in the place of derived attributes on meta, and so ends the graphs they hold."""
    for module, name, _ in _derived(state):
        value = vars(module).get(name)
        if isinstance(value, torch.Tensor) and local_tensor(value).is_meta:
            setattr(module, name, fresh(local_tensor(value), device))


def end_graphs(state: TrainState) -> None:
    """Ends the graphs that derived attributes on meta hold, and takes no memory."""
    for module, name, _ in _derived(state):
        value = vars(module).get(name)
        if isinstance(value, torch.Tensor) and local_tensor(value).is_meta:
            setattr(module, name, value.detach())


def compute_again(state: TrainState) -> None:
    """Computes derived attributes from parameters that have arrived.

    Those of shards are left to the next forward pass, which computes them in any case: here no rank
    may wait for another.
    """
    for module, name, compute in _derived(state):
        inputs = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if not any(isinstance(tensor, DTensor) for tensor in inputs):
            with torch.no_grad():
                setattr(module, name, compute())
