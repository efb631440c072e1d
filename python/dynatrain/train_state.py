"""What a training step depends on, as the user's ``build`` hands it over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from dynatrain._errors import LayoutError, StaleStateError


@runtime_checkable
class Stateful(Protocol):
    """An object that can hand over and take back what it depends on."""

    def state_dict(self) -> dict[str, Any]:
        """Returns everything the object needs to go on."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Takes over what ``state_dict`` of an equal object returned."""
        ...


_FIELDS = ("model", "optimizer", "scheduler", "scaler", "extra", "user")


class TrainState:
    """The training state of one rank in one layout.

    Args:
        model: the module, or this rank's pipeline stage modules in model order. FQNs must be the
            same whichever stage a parameter lives on.
        optimizer: one optimizer, a sequence of them, or None.
        scheduler: learning-rate scheduler, anything with state_dict and load_state_dict.
        scaler: gradient scaler.
        extra: further Stateful objects, equal on all ranks, by name.
        user: anything else that ``build`` makes anew for each layout and that is never moved, such
            as a pipeline schedule.

    Using a field after a switch has replaced the state raises StaleStateError.
    """

    def __init__(  # noqa: PLR0913 - the fields of a training state
        self,
        model: nn.Module | Sequence[nn.Module],
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        scheduler: Any = None,
        scaler: Any = None,
        extra: Mapping[str, Stateful] | None = None,
        user: Any = None,
    ) -> None:
        self._fields: dict[str, Any] = {
            "model": model,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "scaler": scaler,
            "extra": dict(extra or {}),
            "user": user,
        }
        self._retired_by: str | None = None
        for name, item in self._fields["extra"].items():
            if not isinstance(item, Stateful):
                raise LayoutError(
                    f"train_state: extra[{name!r}] is a {type(item).__name__}\n"
                    "  expected an object with state_dict() and load_state_dict()\n"
                    "  nothing was moved\n  put it in user= if it is rebuilt for each layout"
                )

    def _get(self, field: str) -> Any:
        if self._retired_by is not None:
            raise StaleStateError(
                f"train_state: .{field} of a state that the switch to {self._retired_by} replaced\n"
                "  the present state is intact\n  read session.state again after every switch"
            )
        return self._fields[field]

    @property
    def model(self) -> Any:
        """The module or modules, as given."""
        return self._get("model")

    @property
    def optimizer(self) -> Any:
        """The optimizer or optimizers, as given."""
        return self._get("optimizer")

    @property
    def scheduler(self) -> Any:
        """The learning-rate scheduler."""
        return self._get("scheduler")

    @property
    def scaler(self) -> Any:
        """The gradient scaler."""
        return self._get("scaler")

    @property
    def extra(self) -> dict[str, Stateful]:
        """Further Stateful objects by name."""
        return dict(self._get("extra"))

    @property
    def user(self) -> Any:
        """What build made for this layout only."""
        return self._get("user")

    @property
    def modules(self) -> list[nn.Module]:
        """The model as a list of modules."""
        model = self._get("model")
        return [model] if isinstance(model, nn.Module) else list(model)

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers as a list."""
        optimizer = self._get("optimizer")
        if optimizer is None:
            return []
        return [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)

    def stateful_objects(self) -> Iterator[tuple[str, Stateful]]:
        """Scheduler, scaler and extras, those that are there, by name."""
        for name in ("scheduler", "scaler"):
            item = self._get(name)
            if item is not None:
                yield name, item
        for name, item in sorted(self._get("extra").items()):
            yield f"extra.{name}", item

    def retire(self, successor: str) -> None:
        """Makes every later use raise StaleStateError; ``successor`` names the layout."""
        self._retired_by = successor
        self._fields = {}
