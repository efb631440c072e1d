"""State that modules hand over by ``get_extra_state`` and take by ``set_extra_state``, by FQN."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.adapters.torch.names import unwrapped
from dynatrain.adapters.torch.optimizers import asked


def with_extra_state(live: LiveTensors) -> Iterator[tuple[str, nn.Module]]:
    """Modules that have state of their own behind torch's hook, by FQN."""
    for prefix, root in live.state.named_modules():
        for name, module in unwrapped(root).named_modules(remove_duplicate=False):
            if type(module).get_extra_state is not nn.Module.get_extra_state:
                yield live.named(f"{prefix}{name}.".lstrip(".")), module


def read_extra_states(live: LiveTensors) -> dict[str, Any]:
    """What the modules of a state hand over."""
    return {
        fqn: asked(f"module {fqn!r}", "get_extra_state()", module.get_extra_state)
        for fqn, module in with_extra_state(live)
    }


def take_extra_states(live: LiveTensors, states: dict[str, Any]) -> None:
    """Gives every module what the module of its FQN handed over."""
    for fqn, module in with_extra_state(live):
        if not live.state.is_of_present(module):
            _give(fqn, module, states[fqn])


def _give(fqn: str, module: nn.Module, state: Any) -> None:
    asked(f"module {fqn!r}", "set_extra_state()", lambda: module.set_extra_state(state))
