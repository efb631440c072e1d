"""Tensors that steps or the script have set on modules as plain attributes, which no switch moves.

Whether training depends on one cannot be seen: it may be state, or what the next forward pass
computes again. So a switch tells of them in its report, and is not refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.adapters.torch.outside import modules_of
from dynatrain.adapters.torch.outsiders import named
from dynatrain.train_state import TrainState


def dropped(source: LiveTensors, target: LiveTensors) -> list[str]:
    """The attributes with tensors that ``build`` does not make for the target, by module and name.

    What hangs on a graph of autograd belongs to a step that is over.
    """
    mapped = {id(tensor) for _, tensor in source.live()}
    held = [
        name
        for name, value in _attributes(source.state, source.named)
        if value.grad_fn is None and id(value) not in mapped
    ]
    if not held:
        return []
    made = {name for name, _ in _attributes(target.state, target.named)}
    return [name for name in held if name not in made]


def in_words(found: list[str]) -> str:
    """What a report says of them; empty for none."""
    return (
        f"{len(found)} tensors were set on modules as plain attributes and are no longer there, "
        f"{named(found)}: build registers as a buffer what is to go on"
        if found
        else ""
    )


def _attributes(
    state: TrainState, called: Callable[[str], str]
) -> Iterator[tuple[str, torch.Tensor]]:
    for prefix, module in modules_of(state):
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                yield f"{called(prefix)}.{name}".removeprefix("."), value
