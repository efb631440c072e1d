"""The boundary between two steps: whether a state stands at it, and the end of a replaced one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

from torch import nn

from dynatrain._errors import StaleStateError
from dynatrain._torch_private.tensors import (
    fsdp_params_with_gradients,
    hook_uses,
    in_backward,
    modules_under_way,
    release_memory,
    unsharded_fsdp_params,
)
from dynatrain.adapters.torch import schedulers
from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.adapters.torch.names import clean_fqn
from dynatrain.adapters.torch.optimizers import holders
from dynatrain.train_state import TrainState

#: Methods of schedulers, scalers and extras by which stale ones would take part in training.
_USES = (
    "step",
    "update",
    "update_parameters",
    "scale",
    "unscale_",
    "state_dict",
    "load_state_dict",
)
#: What has no hook of torch. Each would do its work on what trains no more, and say nothing.
_USES_OF_OPTIMIZERS = ("zero_grad", "add_param_group", "load_state_dict")
_USES_OF_MODULES = (
    "zero_grad",
    "parameters",
    "named_parameters",
    "buffers",
    "named_buffers",
    "train",
    "requires_grad_",
    "load_state_dict",
)
_UNCHANGED = "nothing was switched; the source state is intact"


def why_not_now(state: TrainState | None) -> str | None:
    """Why a rank with ``state`` (None when idle) is not between two steps, or None."""
    if in_backward():
        return (
            "session: a switch was called inside backward\n"
            f"  expected a call between two steps\n  {_UNCHANGED}\n"
            "  call it after optimizer.step() and zero_grad()"
        )
    if state is None:
        return None
    return _inside_forward(state) or _not_at_boundary(state)


def _inside_forward(state: TrainState) -> str | None:
    """Looks for a call of a module of the state on the stack of this thread, the innermost one."""
    calls = modules_under_way()
    if not calls:
        return None
    names = {
        id(module): clean_fqn(f"{lead}{name}").removesuffix(".")
        for lead, root in _all_modules(state)
        for name, module in root.named_modules()
    }
    inside = next((names[id(module)] for module in calls if id(module) in names), None)
    if inside is None:
        return None
    where = f"module {inside!r}" if inside else "the model"
    return (
        f"session: a switch was called inside the forward pass of {where}\n"
        f"  expected a call between two steps\n  {_UNCHANGED}\n"
        "  note there that a switch is wanted, and call it behind the step, as the last thing in "
        "the loop's body"
    )


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
    refuse = _refusing("a model or optimizer", successor)
    again: set[int] = set()
    if target is not None:
        again |= {id(item) for _, item in target.state.named_modules()}
        again |= {id(item) for holder in target.holders for item in holder.all}
        again |= {id(tensor) for tensor in target.tensors.values()}
        again |= {id(item) for _, item in _with_nested(target.state)}
        # A rank that idles from now on may be given the same object again when it returns.
        for name, item in _with_nested(state):
            if id(item) not in again:
                _refuse_uses(item, _refusing(_words_for(name), successor), _USES)
    for optimizer in (item for holder in holders(state) for item in holder.all):
        if id(optimizer) not in again:
            optimizer.state.clear()
            hook_uses(optimizer, refuse)
            _refuse_uses(optimizer, refuse, _USES_OF_OPTIMIZERS)
    replaced = [module for _, module in state.named_modules() if id(module) not in again]
    for module in replaced:
        module.register_forward_pre_hook(refuse, prepend=True)
        module.register_state_dict_pre_hook(refuse)  # type: ignore[no-untyped-call]
        release_memory(module, again)
    for module in replaced:  # one may hold another
        _refuse_uses(module, refuse, _USES_OF_MODULES)
    state.retire(successor)


def _refusing(what: str, successor: str) -> Callable[..., NoReturn]:
    """What stands before the methods of a replaced object."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise StaleStateError(
            f"session: {what} that the switch to {successor} replaced was used\n"
            "  the present state is intact\n  read session.state again after every switch"
        )

    return refuse


def _words_for(name: str) -> str:
    kind, _, own = name.partition(".")
    return f"the extra {own!r}" if kind == "extra" else f"a {kind}"


def _with_nested(state: TrainState) -> Iterator[tuple[str, Any]]:
    """Schedulers, those inside of them too, scalers and extras, with the name each is given by."""
    yield from schedulers.driven(state)
    for name, item in state.stateful_objects():
        if not name.startswith("scheduler"):
            yield name, item


def _refuse_uses(item: Any, refuse: Callable[..., None], uses: Iterable[str]) -> None:
    """Puts a refusal before what a script calls in training, and when it saves, on one object."""
    try:
        own = object.__getattribute__(item, "__dict__")
    except AttributeError:
        return  # of slots alone: nothing can be put before its methods
    for use in uses:
        if any(use in vars(base) for base in type(item).__mro__):
            own[use] = refuse
