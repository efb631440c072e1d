"""What a training step depends on, as the user's ``build`` hands it over."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from dynatrain._errors import LayoutError, StaleStateError
from dynatrain.given import kind, shown, text


@runtime_checkable
class Stateful(Protocol):
    """An object that can hand over and take back what it depends on."""

    def state_dict(self) -> dict[str, Any]:
        """Returns everything the object needs to go on."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Takes over what ``state_dict`` of an equal object returned."""
        ...


@contextmanager
def _looking(name: str, value: object, expected: str) -> Iterator[None]:
    """Refuses what raises when it is looked at, as what is wrong."""
    try:
        yield
    except Exception as error:
        raise LayoutError(
            f"train_state: {name}={shown(value)}\n  expected {expected}, got a {kind(value)}\n"
            f"  nothing was moved\n  give TrainState another {name} in build"
        ) from error


def _check_model(model: Any) -> None:
    with _looking("model", model, "a torch.nn.Module, or a list of them"):
        modules = [model] if isinstance(model, nn.Module) else list(model)
        if not modules or not all(isinstance(module, nn.Module) for module in modules):
            raise TypeError("no module")


def _check_made(name: str, value: Any) -> None:
    """Refuses a class where an object of it is meant; a list is looked through."""
    with _looking(name, value, "an object that build makes, or a list of them"):
        items = value if isinstance(value, list | tuple) else [value]
        classes = [item for item in items if isinstance(item, type)]
    if classes:
        own = type.__dict__["__name__"].__get__(classes[0])
        raise LayoutError(
            f"train_state: {name} is the class {own}\n"
            "  expected an object of it\n"
            f"  nothing was moved\n  call it in build: {own}(...)"
        )


def _check_stateful(name: str, item: Any) -> None:
    _check_made(name, item)
    try:
        if isinstance(item, Stateful):
            return
    except Exception:  # noqa: BLE001 - an object that raises when it is looked at
        pass
    raise LayoutError(
        f"train_state: {name} is of type {kind(item)}\n"
        "  expected an object with state_dict() and load_state_dict()\n"
        "  nothing was moved\n"
        "  what is to travel has to be wrapped in an object with both: state_dict() returns it in "
        "a dict, load_state_dict() takes that over; what build makes anew for each layout, and no "
        "switch moves, goes into user="
    )


def _checked_extra(extra: Any) -> dict[str, Any]:
    with _looking("extra", extra, "a mapping of names, strings, to objects"):
        items = {} if extra is None else dict(extra.items())
        if not all(text(name) for name in items):
            raise TypeError("a name is no text")
    return items


def _checked_names(names: Any) -> frozenset[str]:
    with _looking("per_rank", names, "names of extras"):
        found = [text(name) for name in ([names] if isinstance(names, str) else names)]
        if None in found:
            raise TypeError("a name is no text")
    return frozenset(name for name in found if name is not None)


class TrainState:
    """The training state of one rank in one layout.

    Using a field after a switch has replaced the state raises StaleStateError.

    Args:
        model: the module, or this rank's pipeline stage modules in model order. FQNs must be the
            same whichever stage a parameter lives on.
        optimizer: one optimizer, a sequence of them, or None. One that holds others is given alone.
        scheduler: learning-rate scheduler, anything with state_dict and load_state_dict, or a
            sequence of them.
        scaler: gradient scaler.
        extra: further Stateful objects by name, equal on all ranks but for tensors that are cut as
            a parameter; a module's parameters and buffers travel as the model's do.
        user: anything else that ``build`` makes anew for each layout and that is never moved, such
            as a pipeline schedule.
        per_rank: names of extras that differ from rank to rank. Each takes what the same rank had
            before the switch; on a rank that had none it stays as ``build`` made it, and what a
            rank had that has no place in the target is dropped.
    """

    def __init__(  # noqa: PLR0913 - the fields of a training state
        self,
        model: nn.Module | Sequence[nn.Module],
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        scheduler: Any = None,
        scaler: Any = None,
        extra: Mapping[str, Stateful] | None = None,
        user: Any = None,
        per_rank: Collection[str] = (),
    ) -> None:
        _check_made("model", model)
        _check_model(model)
        _check_made("optimizer", optimizer)
        self._fields: dict[str, Any] = {
            "model": model,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "scaler": scaler,
            "extra": _checked_extra(extra),
            "user": user,
        }
        self._per_rank = _checked_names(per_rank)
        self._retired_by: str | None = None
        self._of_present: set[int] = set()
        with _looking("scheduler", scheduler, "a scheduler, or a list of them"):
            items = list(self.stateful_objects())
        for name, item in items:
            _check_stateful(name, item)
        unknown = sorted(self._per_rank - set(self._fields["extra"]))
        if unknown:
            raise LayoutError(
                f"train_state: per_rank names {unknown}, which are not in extra=\n"
                f"  expected some of {sorted(self._fields['extra'])}\n"
                "  nothing was moved\n  name extras alone; all else is equal on all ranks"
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
        """The learning-rate scheduler or schedulers, as given."""
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
        """Schedulers, scaler and extras, those that are there, by name."""
        for name in ("scheduler", "scaler"):
            item = self._get(name)
            if isinstance(item, list | tuple):
                yield from ((f"{name}.{place}", one) for place, one in enumerate(item))
            elif item is not None:
                yield name, item
        for name, item in sorted(self._get("extra").items()):
            yield f"extra.{name}", item

    def is_per_rank(self, name: str) -> bool:
        """Whether a name of :meth:`stateful_objects` belongs to its rank."""
        return name.removeprefix("extra.") in self._per_rank and name.startswith("extra.")

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules whose tensors travel, with what stands before their FQNs."""
        yield from (("", module) for module in self.modules)
        for name, item in self.stateful_objects():
            if isinstance(item, nn.Module) and not self.is_per_rank(name):
                yield f"{name}.", item

    def shared_objects(self) -> Iterator[tuple[str, Stateful]]:
        """Stateful objects that all ranks hold alike and that are no modules, by name."""
        for name, item in self.stateful_objects():
            if not (isinstance(item, nn.Module) or self.is_per_rank(name)):
                yield name, item

    def per_rank_objects(self) -> Iterator[tuple[str, Stateful]]:
        """Stateful objects that belong to their rank, by name."""
        return (pair for pair in self.stateful_objects() if self.is_per_rank(pair[0]))

    def note_present(self, present: TrainState, further: Collection[object] = ()) -> None:
        """Remembers which objects ``build`` took over from the present state as they are.

        ``further`` are objects of it that no field leads to.
        """
        items = [item for _, item in present.stateful_objects()]
        roots = [*present.modules, *(item for item in items if isinstance(item, nn.Module))]
        self._of_present = {id(item) for item in (*items, *further)}
        self._of_present |= {id(module) for root in roots for module in root.modules()}

    def is_of_present(self, item: object) -> bool:
        """Whether an object is the present state's own: nothing is loaded into it."""
        return id(item) in self._of_present

    def retire(self, successor: str) -> None:
        """Makes every later use raise StaleStateError; ``successor`` names the layout."""
        self._retired_by = successor
        self._fields = {}
