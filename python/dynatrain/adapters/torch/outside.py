"""What a script sets on a state outside of ``build``: hooks, and which parameters train.

No map and no value says it, and every switch makes the objects anew: it would be gone, and training
would go on another way. So a state remembers how it was handed to the script, and what is otherwise
at a switch has to be so in what ``build`` makes for the target as well. Kept objects that hook the
model of every world do so before a state is handed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn

from dynatrain._errors import LayoutError
from dynatrain.adapters.port import SlotNote
from dynatrain.adapters.torch.names import clean_fqn, unwrapped
from dynatrain.adapters.torch.optimizers import holders
from dynatrain.train_state import TrainState

#: The name of the value, and first word of the note, that a script has set something; what it is,
#: the FQN and how it is now follow.
OUTSIDE = "hooks and requires_grad"
#: What is set, and the FQN of the parameter or module; of an optimizer's, that of each parameter.
Key = tuple[str, str]
#: Numbers of hooks, and 1 or 0 for ``requires_grad``, where they are not those of :func:`_usual`.
Found = dict[Key, int]

_REQUIRES_GRAD = "requires_grad"
#: How hooks are registered, by the attribute that torch keeps them under.
_OF_MODULES = {
    "_forward_pre_hooks": "register_forward_pre_hook",
    "_forward_hooks": "register_forward_hook",
    "_backward_pre_hooks": "register_full_backward_pre_hook",
    "_backward_hooks": "register_full_backward_hook",
    "_state_dict_pre_hooks": "register_state_dict_pre_hook",
    "_state_dict_hooks": "register_state_dict_post_hook",
    "_load_state_dict_pre_hooks": "register_load_state_dict_pre_hook",
    "_load_state_dict_post_hooks": "register_load_state_dict_post_hook",
}
#: Stands for each of these that a module lacks among its own attributes: it may be its class's.
_MISSING = (True,) * len(_OF_MODULES)
_OF_PARAMETERS = {
    "_backward_hooks": "register_hook",
    "_post_accumulate_grad_hooks": "register_post_accumulate_grad_hook",
}
_OF_OPTIMIZERS = {
    "_optimizer_step_pre_hooks": "register_step_pre_hook",
    "_optimizer_step_post_hooks": "register_step_post_hook",
    "_optimizer_state_dict_pre_hooks": "register_state_dict_pre_hook",
    "_optimizer_state_dict_post_hooks": "register_state_dict_post_hook",
    "_optimizer_load_state_dict_pre_hooks": "register_load_state_dict_pre_hook",
    "_optimizer_load_state_dict_post_hooks": "register_load_state_dict_post_hook",
}
#: Packages that register hooks of their own while a model trains, and again where they are needed:
#: torch's, and transformers' in the first forward pass under its tensor parallelism.
_LIBRARIES = (
    "torch._",
    "torch.distributed",
    "torch.nn.modules",
    "torch.nn.parallel",
    "torch.nn.utils",
    "torch.optim",
    "torch.utils",
    "transformers.distributed",
    "transformers.utils",
    "dynatrain.",
)


def _usual(what: str) -> int:
    return 1 if what == _REQUIRES_GRAD else 0


def _is_of_library(hook: Any) -> bool:
    while isinstance(hook, partial):
        hook = hook.func
    return str(getattr(hook, "__module__", "")).startswith(_LIBRARIES)


def modules_of(state: TrainState) -> Iterator[tuple[str, nn.Module]]:
    """Every module with what stands before the names of its parameters: its FQN and a dot."""
    own = ((f"{name}.", item) for name, item in state.per_rank_objects())
    roots = [*state.named_modules(), *(each for each in own if isinstance(each[1], nn.Module))]
    for lead, root in roots:
        assert isinstance(root, nn.Module)
        for name, module in unwrapped(root).named_modules(remove_duplicate=False):
            yield clean_fqn(f"{lead}{name}." if name else lead), module


def read(state: TrainState) -> Found:
    """How hooks and ``requires_grad`` of a state are now."""
    found: Counter[Key] = Counter()
    frozen: Found = {}
    params: dict[str, nn.Parameter] = {}
    for prefix, module in modules_of(state):
        if any(map(vars(module).get, _OF_MODULES, _MISSING)):  # most have none
            for what, number in _hooks(module, _OF_MODULES):
                found[what, prefix.removesuffix(".")] += number
        for key, param in module._parameters.items():
            if param is not None:
                params[prefix + key] = param
    for fqn, param in params.items():
        for what, number in _hooks(param, _OF_PARAMETERS):
            found[what, fqn] += number
        if not param.requires_grad:
            frozen[_REQUIRES_GRAD, fqn] = 0
    for what, ids, number in _hooks_of_optimizers(state):
        found.update({(what, fqn): number for fqn, param in params.items() if id(param) in ids})
    return {**found, **frozen}


def _hooks_of_optimizers(state: TrainState) -> Iterator[tuple[str, set[int], int]]:
    """How they were registered, ids of the optimizer's parameters, and how many there are."""
    for holder in holders(state):
        way = "".join(f".{name}" for name in holder.role)
        ids = {id(param) for param in holder.params()}
        items = {way: holder.optimizer}
        if holder.keeper is not holder.optimizer:
            items[f"{way}.optim"] = holder.keeper
        for lead, item in items.items():
            for what, number in _hooks(item, _OF_OPTIMIZERS):
                yield f"optimizer{lead}.{what}", ids, number


def _hooks(item: object, words: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """How hooks of an object were registered and how many there are, those of libraries apart."""
    for attribute, what in words.items():
        hooks: Mapping[int, Any] | None = getattr(item, attribute, None)
        if hooks:
            number = sum(not _is_of_library(hook) for hook in hooks.values())
            if number:
                yield what, number


def changes(state: TrainState, before: Found, named: Callable[[str], str]) -> Found:
    """What is otherwise than it was ``before``, as it is now; FQNs are those that ``named`` gives.

    What is as usual again is told, too.
    """
    now = read(state)
    if now == before:
        return {}
    return {
        (what, named(fqn)): now.get((what, fqn), _usual(what))
        for what, fqn in {**now, **before}
        if now.get((what, fqn)) != before.get((what, fqn))
    }


def notes(changed: Found) -> set[SlotNote]:
    """The same as notes of a source."""
    return {(OUTSIDE, *key, value) for key, value in changed.items()}


def of_notes(said: Collection[SlotNote]) -> Found:
    """What all ranks of the source have noted."""
    found = sorted((note[1:] for note in said if note[0] == OUTSIDE), key=repr)
    return {(str(what), str(fqn)): int(str(value)) for what, fqn, value in found}


def names(state: TrainState) -> set[str]:
    """FQNs of the modules and parameters of a state."""
    found: set[str] = set()
    for prefix, module in modules_of(state):
        found |= {prefix.removesuffix("."), *(prefix + key for key in module._parameters)}
    return found


def check(target: TrainState, changed: Found) -> None:
    """Raises LayoutError when ``build`` has made something otherwise than the source has it now."""
    if not changed:
        return
    made, here = read(target), names(target)
    for (what, fqn), value in changed.items():
        by_build = made.get((what, fqn), _usual(what))
        if fqn in here and value != by_build:
            raise (
                _lost_frozen(fqn, value, by_build)
                if what == _REQUIRES_GRAD
                else _lost_hooks(what, fqn, value, by_build)
            )


def _lost_frozen(fqn: str, value: int, by_build: int) -> LayoutError:
    return LayoutError(
        f"adapters: parameter {fqn!r} has requires_grad={bool(value)} on a rank, which the script "
        f"has set; build makes it with requires_grad={bool(by_build)}\n"
        "  expected the same in both: a switch makes parameters anew, as build says\n"
        "  nothing was switched; the source state is intact\n"
        "  set it in build, which may ask the script what is frozen by now"
    )


def _lost_hooks(what: str, fqn: str, value: int, by_build: int) -> LayoutError:
    owner = repr(fqn) if fqn else "the model"
    if what.startswith("optimizer"):
        owner = f"the optimizer of {owner}"
    return LayoutError(
        f"adapters: hooks of {owner} by {what}(): {value} as the script has left them on a rank, "
        f"{by_build} as build makes them\n"
        "  expected as many in both: a switch makes modules, parameters and optimizers anew\n"
        "  nothing was switched; the source state is intact\n"
        "  register it in build, or in on_world() of a kept object, which is called in every world"
    )
