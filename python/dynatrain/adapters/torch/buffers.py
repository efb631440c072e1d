"""Buffers that are no longer as build made them: grown, replaced, filled in late, or dropped.

A buffer of another shape in the target may mean two things: its shape depends on the layout, which
no rule can map, or a step has changed it. Notes of the source tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from dynatrain._torch_private.tensors import put_under
from dynatrain.adapters.port import SlotNote, Slots
from dynatrain.adapters.torch.names import BUFFER, clean_fqn, dtype_name, dtype_named, unwrapped
from dynatrain.train_state import TrainState

#: First word of the note that a buffer is not as build made it; its FQN and the form it had follow.
CHANGED = "changed buffer"
#: Shape and dtype, None where there was no tensor.
Form = tuple[tuple[int, ...], str] | None


def _places(state: TrainState) -> Iterator[tuple[nn.Module, str, str]]:
    """Every module with a buffer's key in it, set or not, and the FQN."""
    for lead, module in state.named_modules():
        for prefix, child in unwrapped(module).named_modules(remove_duplicate=False):
            for key in child._buffers:
                yield child, key, clean_fqn(lead + (f"{prefix}.{key}" if prefix else key))


def _form(buffer: torch.Tensor | None) -> Form:
    if buffer is None:
        return None
    if buffer.layout is not torch.strided or buffer.is_nested:
        return (), type(buffer).__name__  # it is refused by name, and may have no shape
    return tuple(buffer.shape), dtype_name(buffer.dtype)


def forms(state: TrainState) -> dict[str, Form]:
    """The form of every buffer of a state that was just built, by FQN."""
    return {fqn: _form(child._buffers[key]) for child, key, fqn in _places(state)}


def changes(state: TrainState, built: Mapping[str, Form]) -> Iterator[tuple[str, Form]]:
    """FQNs of buffers that are not as they were built, and the form they had then."""
    for child, key, fqn in _places(state):
        if fqn in built and _form(child._buffers[key]) != built[fqn]:
            yield fqn, built[fqn]


def follow_changes(state: TrainState, slots: Slots) -> None:
    """Gives buffers of a state on meta the form that the source's have since they were built."""
    notes = {note for note in slots.notes if note[0] == CHANGED}
    if not notes:
        return
    names = set(slots.source.names())
    for child, key, fqn in _places(state):
        buffer, name = child._buffers[key], f"{fqn}|{BUFFER}"
        if _note(fqn, _form(buffer)) not in notes or isinstance(buffer, DTensor):
            continue
        if name in names:
            child._buffers[key] = _with_form(name, buffer, slots.source.info(name))
        else:
            child._buffers[key] = None


def _note(fqn: str, form: Form) -> SlotNote:
    return (CHANGED, fqn, form)


def _with_form(name: str, buffer: torch.Tensor | None, info: Any) -> torch.Tensor:
    shape, dtype, _ = info
    made = torch.empty(tuple(shape), dtype=dtype_named(dtype, name), device="meta")
    if buffer is None:
        return made
    put_under(buffer, made)  # the object stays: modules may share it
    return buffer
