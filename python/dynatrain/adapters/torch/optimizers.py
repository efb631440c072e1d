"""The optimizers of a state, those inside of others too, and what they keep beside their slots.

An optimizer may hold others (one for each part of a model, a base optimizer under a wrapper). Each
is known by its *role*: the names of the attributes that lead to it, without numbers, as another
layout may hold more or fewer of them. Which of one role takes what is said by its parameters.

One that divides its slots among ranks counts as the optimizer that has those of this rank, with the
parameters and options of the whole: so it is no other optimizer where nothing is divided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, ValuesView
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from dynatrain._errors import Error, LayoutError
from dynatrain._torch_private.tensors import hooks_its_state_dict
from dynatrain._torch_private.zero import own_part
from dynatrain.given import described
from dynatrain.train_state import TrainState

_T = TypeVar("_T")
Role = tuple[str, ...]
#: What an optimizer writes into its own ``state_dict()``.
_STATE, _GROUPS = "state", "param_groups"
#: Names of parameters in a group belong to the parameters, and ``build`` makes them.
OF_PARAMETERS = ("params", "param_names")


@dataclass(frozen=True)
class Holder:
    """An optimizer and the way to it.

    Attributes:
        optimizer: the optimizer.
        keeper: what has its slots: itself, or its part on this rank.
        role: names of attributes from one of ``TrainState.optimizer``, which has the role ``()``.
        index: its number among those of its role.
        parts: the optimizers that it holds itself and whose state is not its own.
        same: those whose state is its own: it is a face of theirs.
    """

    optimizer: Optimizer
    keeper: Optimizer
    role: Role
    index: int
    parts: tuple[Optimizer, ...]
    same: tuple[Optimizer, ...]

    @property
    def all(self) -> tuple[Optimizer, ...]:
        """The optimizer, and those that it is a face of, its part on this rank among them."""
        return (self.optimizer, *self.same)

    @property
    def kind(self) -> str:
        """Full name of the class that steps."""
        return kind_of(self.keeper)

    @property
    def words(self) -> str:
        """How an error names it."""
        way = "".join(f".{name}" for name in self.role)
        return f"optimizer{way} {self.index} ({type(self.optimizer).__name__})"

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Its param groups."""
        return list(self.optimizer.param_groups)

    def params(self) -> Iterator[nn.Parameter]:
        """The parameters of all its groups."""
        for group in self.groups:
            yield from group["params"]

    def kept_params(self) -> Iterator[nn.Parameter]:
        """Those of which this rank keeps the slots."""
        for group in self.keeper.param_groups:
            yield from group["params"]


def kind_of(item: object) -> str:
    """Full name of an object's class."""
    return f"{type(item).__module__}.{type(item).__qualname__}"


def holders(state: TrainState) -> list[Holder]:
    """Every optimizer of a state, each once, what it holds after it."""
    found: list[Holder] = []
    seen: set[int] = set()
    counts: dict[Role, int] = {}

    def visit(optimizer: Optimizer, role: Role) -> None:
        if id(optimizer) in seen:
            return
        seen.add(id(optimizer))
        keeper = own_part(optimizer) or optimizer
        inner = list(_inside(optimizer))
        inner += _inside(keeper) if keeper is not optimizer else ()
        own = {id(optimizer.state), id(keeper.state)}
        same = tuple(item for _, item in inner if id(item.state) in own)
        parts = tuple(item for _, item in inner if id(item.state) not in own)
        index = counts.get(role, 0)
        counts[role] = index + 1
        found.append(Holder(optimizer, keeper, role, index, parts, same))
        for name, item in inner:
            if item in parts:
                visit(item, (*role, name))

    given = state.optimizer
    several = isinstance(given, Iterable) and not isinstance(given, Optimizer)
    for optimizer in given if several else [] if given is None else [given]:
        _check_optimizer(optimizer)
        visit(optimizer, ())
    return found


def _check_optimizer(item: Any) -> None:
    groups = getattr(item, _GROUPS, None)
    if isinstance(getattr(item, _STATE, None), Mapping) and isinstance(groups, list):
        return
    raise LayoutError(
        f"adapters: TrainState.optimizer has a {kind_of(item)}\n"
        "  expected a torch.optim.Optimizer, with state by parameter and param_groups, or several\n"
        "  nothing was switched; the source state is intact\n"
        "  give the optimizer that it wraps, and what it keeps itself as extra="
    )


def _inside(optimizer: Optimizer) -> Iterator[tuple[str, Optimizer]]:
    for name, value in vars(optimizer).items():
        items = value.values() if isinstance(value, dict) else value
        for item in items if isinstance(items, list | tuple | ValuesView) else [items]:
            if isinstance(item, Optimizer):
                yield name, item


def asked(name: str, what: str, call: Callable[[], _T]) -> _T:
    """What the user's ``call`` returns; what it raises becomes an error that names ``name``."""
    try:
        return call()
    except Error:
        raise
    except Exception as error:
        raise LayoutError(
            f"adapters: {what} of {name} raised {described(error)}\n"
            f"  expected {what} to work between two steps, in every layout\n"
            "  the source state is intact and training may go on\n"
            "  the traceback above this error says where"
        ) from error


def beside_slots(holder: Holder) -> dict[str, Any]:
    """What an optimizer keeps for all its parameters together, by where it keeps it.

    These are entries of ``optimizer.state`` that belong to no parameter, and what its own
    ``state_dict()``, or a hook of it, writes beside ``state`` and ``param_groups``.
    """
    optimizer = holder.keeper
    loose = {k: v for k, v in optimizer.state.items() if not isinstance(k, torch.Tensor)}
    written: dict[str, Any] = {}
    if _writes_more(holder):
        whole = asked(holder.words, "state_dict()", optimizer.state_dict)
        has = sorted(map(str, whole)) if isinstance(whole, Mapping) else []
        if not {_STATE, _GROUPS} <= set(has):
            raise LayoutError(
                f"adapters: the state_dict() of {holder.words}, a {type(whole).__name__}, has "
                f"{has[:6]}\n"
                f"  expected {_STATE!r}, {_GROUPS!r} and what it keeps beside them\n"
                "  nothing was switched; the source state is intact\n"
                "  give TrainState the optimizers that it holds, and its own counters as extra="
            )
        written = {key: item for key, item in whole.items() if key not in (_STATE, _GROUPS)}
    return {"state": loose, "state_dict": written} if loose or written else {}


def _writes_more(holder: Holder) -> bool:
    """Whether ``state_dict()`` may hold more than torch's own; one over parts joins their slots."""
    optimizer = holder.keeper
    if holder.parts:
        return False
    return hooks_its_state_dict(optimizer) or type(optimizer).state_dict is not Optimizer.state_dict


def put_beside(holder: Holder, beside: Mapping[str, Any]) -> None:
    """Gives an optimizer what :func:`beside_slots` read; its slots and groups stay."""
    optimizer = holder.keeper
    optimizer.state.update(beside.get("state", {}))
    written = beside.get("state_dict", {})
    if not written:
        return
    kept = _kept(optimizer)
    own = asked(holder.words, "state_dict()", optimizer.state_dict)
    whole = {**own, _STATE: {}, **written}
    try:
        asked(holder.words, "load_state_dict()", lambda: optimizer.load_state_dict(whole))
    finally:
        for item, state, groups in kept:
            item.__dict__[_STATE], item.__dict__[_GROUPS] = state, groups


def _kept(optimizer: Optimizer) -> list[tuple[Optimizer, Any, Any]]:
    """The optimizer and those behind it whose own slots and groups loading would replace."""
    inside = [optimizer, *(item for _, item in _inside(optimizer))]
    return [
        (item, item.__dict__[_STATE], item.__dict__[_GROUPS])
        for item in inside
        if _STATE in item.__dict__ and _GROUPS in item.__dict__
    ]
