"""The boundary between two steps: whether a state stands at it, and the end of a replaced one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from dynatrain._errors import StaleStateError
from dynatrain._torch_private.tensors import (
    fsdp_params_with_gradients,
    hook_steps,
    in_backward,
    release_memory,
    unsharded_fsdp_params,
)
from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.adapters.torch.optimizers import holders
from dynatrain.train_state import TrainState

_UNCHANGED = "nothing was switched; the source state is intact"


def why_not_now(state: TrainState | None) -> str | None:
    """Why a rank with ``state`` (None when idle) is not between two steps, or None."""
    if in_backward():
        return (
            "session: a switch was called inside backward\n"
            f"  expected a call between two steps\n  {_UNCHANGED}\n"
            "  call it after optimizer.step() and zero_grad()"
        )
    return None if state is None else _not_at_boundary(state)


def _not_at_boundary(state: TrainState) -> str | None:
    for lead, module in _all_modules(state):
        owner = lead.rstrip(".") or "model"
        held = [name for name, param in module.named_parameters() if param.grad is not None]
        held = [lead + name for name in held + fsdp_params_with_gradients(module)]
        if held:
            return (
                f"session: {len(held)} parameters hold gradients, first {held[0]!r}\n"
                f"  expected gradients None at a step boundary\n  {_UNCHANGED}\n"
                "  finish the accumulation; once optimizer.step() has used them, also where "
                "zero_grad stands at\n  the head of a step, call "
                f"{owner}.zero_grad(set_to_none=True) before the switch"
            )
        gathered = unsharded_fsdp_params(module)
        if gathered:
            return (
                f"session: fully_shard holds {lead + gathered[0]!r} gathered\n"
                f"  expected sharded parameters at a step boundary\n  {_UNCHANGED}\n"
                f"  finish the backward pass, or call {owner}.reshard()"
            )
    return None


def _all_modules(state: TrainState) -> Iterator[tuple[str, nn.Module]]:
    """The model and every module among the extras, with what stands before their FQNs."""
    yield from state.named_modules()
    for name, item in state.per_rank_objects():
        if isinstance(item, nn.Module):
            yield f"{name}.", item


def retire(state: TrainState, target: LiveTensors | None, successor: str) -> None:
    """Drops the memory of a replaced state and makes later use raise.

    Objects that build handed over again, such as a frozen module made once, live on.
    """

    def refuse(*_: object) -> None:
        raise StaleStateError(
            f"session: a model or optimizer that the switch to {successor} replaced was used\n"
            "  the present state is intact\n  read session.state again after every switch"
        )

    again: set[int] = set()
    if target is not None:
        again |= {id(item) for _, item in target.state.named_modules()}
        again |= {id(item) for holder in target.holders for item in holder.all}
        again |= {id(tensor) for tensor in target.tensors.values()}
    for holder in holders(state):
        for optimizer in holder.all:
            if id(optimizer) not in again:
                optimizer.state.clear()
                hook_steps(optimizer, refuse)
    for _, module in state.named_modules():
        if id(module) not in again:
            module.register_forward_pre_hook(refuse, prepend=True)
            release_memory(module, again)
    state.retire(successor)
