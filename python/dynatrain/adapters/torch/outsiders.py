"""What trains the parameters of a state and is no part of it.

What an optimizer keeps of a parameter lies outside of the state where ``build`` does not return it:
every switch makes it anew, and training would go on from empty moments without a word. Parameters
that a script trains without an optimizer are its own affair, so they are told of and not refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import finalize, ref

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from dynatrain._errors import LayoutError
from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.adapters.torch.leftovers import reaches
from dynatrain.adapters.torch.names import clean_fqn, unwrapped
from dynatrain.adapters.torch.optimizers import holders, kind_of
from dynatrain.train_state import TrainState

_MOST_NAMED = 3


class Outsiders:
    """Optimizers that step while a state trains and are not its own, by torch's hook of all.

    Costs a step of an optimizer one look into a set. Ends with ``state``, and keeps no optimizer
    alive.
    """

    def __init__(self, state: TrainState) -> None:
        self._own = {id(item) for holder in holders(state) for item in holder.all}
        self._seen: dict[int, ref[Optimizer]] = {}
        finalize(state, register_optimizer_step_post_hook(self._see).remove)

    def _see(self, optimizer: Optimizer, *_: object) -> None:
        if id(optimizer) not in self._own:
            self._seen[id(optimizer)] = ref(optimizer)

    def check(self, state: TrainState) -> None:
        """Raises LayoutError where one that is still there keeps something of a parameter."""
        there = [each for each in (seen() for seen in self._seen.values()) if each is not None]
        if not there:
            return
        own = [each.state for holder in holders(state) for each in holder.all]
        fqns = {
            id(param): clean_fqn(lead + name)
            for lead, module in state.named_modules()
            for name, param in unwrapped(module).named_parameters()
        }
        for optimizer in there:
            if any(optimizer.state is each for each in own):
                continue  # a face of an optimizer of the state
            slots_of = optimizer.state.items()
            kept = [fqns[id(p)] for p, slots in slots_of if id(p) in fqns and _holds(slots)]
            if kept and not _travels(state, optimizer):
                raise _outside(optimizer, kept)


def _holds(slots: object) -> bool:
    if isinstance(slots, Mapping):
        return any(value is not None for value in slots.values())
    return slots is not None


def _travels(state: TrainState, optimizer: Optimizer) -> bool:
    """Whether an extra reaches it, whose ``state_dict()`` may hand over what it keeps."""
    extras = [pair for pair in state.stateful_objects() if pair[0].startswith("extra.")]
    return reaches(extras, optimizer)


def _outside(optimizer: Optimizer, kept: Sequence[str]) -> LayoutError:
    return LayoutError(
        f"adapters: an optimizer that TrainState does not have, a {kind_of(optimizer)}, has "
        f"stepped {named(kept)}, and keeps state of them\n"
        "  expected every optimizer that trains the state to be in it: a switch would begin the "
        "moments of any other one anew\n"
        "  nothing was switched; the source state is intact\n"
        "  return it from build, TrainState(model, optimizer=...), several as a list; empty "
        "one of which nothing is to go on: optimizer.state.clear()"
    )


def without_optimizer(live: LiveTensors) -> list[str]:
    """FQNs of parameters of the model that train, and that no optimizer of the state has."""
    held = {id(param) for holder in live.holders for param in holder.params()}
    if live.fqn_of.keys() <= held:  # the rule, found in no time
        return []
    params = (param for module in live.state.modules for param in module.parameters())
    trained = {id(param): param for param in params if param.requires_grad}
    return [live.fqn_of[key] for key in trained if key in live.fqn_of and key not in held]


def named(fqns: Sequence[str]) -> str:
    """The first of them by name, and how many there are."""
    first = ", ".join(repr(fqn) for fqn in fqns[:_MOST_NAMED])
    more = len(fqns) - _MOST_NAMED
    return first + (f" and {more} more" if more > 0 else "")
