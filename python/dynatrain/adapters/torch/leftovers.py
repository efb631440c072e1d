"""What a state reaches that build made on the meta device and nobody gave memory to.

To torch a meta tensor in a step is often no error: ``weight.sub_(meta)`` does nothing, in silence.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from dynatrain._errors import LayoutError
from dynatrain._torch_private.tensors import is_released
from dynatrain.train_state import TrainState

#: What is not looked into: it belongs to the process or to the world, or holds nothing.
_CLOSED = (
    ProcessGroup,
    DeviceMesh,
    types.ModuleType,
    type,
    str,
    bytes,
    int,
    float,
    complex,
    torch.dtype,
    torch.device,
    torch.Size,
    torch.Generator,
    torch.cuda.Stream,
)
#: Packages whose own objects hold no state of a job, but for the kinds named in `_OPENED`.
_LIBRARIES = (
    "dynatrain",
    "torch.distributed",
    "torch._",
    "torch.fx",
    "torch.jit",
    "torch.utils.data",
    "logging",
    "threading",
    "multiprocessing",
)
_OPENED = (nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)

#: Most of what a state holds; they hold nothing themselves, and are not even looked at.
_PLAIN = frozenset([type(None), str, bytes, bool, int, float, complex, torch.dtype])

#: The last step of the way to an object, and the object.
_Found = tuple[str, Any]


@dataclass(frozen=True)
class _Reached:
    """An object, and how it was reached."""

    step: str
    item: Any
    by: _Reached | None

    def way(self) -> str:
        """All steps from the state on."""
        steps, at = [self.step], self.by
        while at is not None:
            steps.append(at.step)
            at = at.by
        return "".join(reversed(steps))


@dataclass(frozen=True)
class _Kind:
    """What is to be known of a class, found once: a walk meets thousands of objects of a few."""

    is_closed: bool
    is_tensor: bool
    may_be_released: bool
    is_mapping: bool
    is_sequence: bool
    has_attributes: bool
    slots: tuple[tuple[str, types.MemberDescriptorType], ...]


def _kind_of(kind: type) -> _Kind:
    of_library = kind.__module__.startswith(_LIBRARIES)
    is_opened = issubclass(kind, (*_OPENED, torch.Tensor)) or not of_library
    return _Kind(
        is_closed=issubclass(kind, (*_CLOSED, type(None))),
        is_tensor=issubclass(kind, torch.Tensor),
        may_be_released=issubclass(kind, torch.Tensor | nn.Module),
        is_mapping=issubclass(kind, dict),
        is_sequence=issubclass(kind, list | tuple | set | frozenset | deque),
        has_attributes=is_opened and not issubclass(kind, types.BuiltinFunctionType),
        slots=tuple(
            (name, member)
            for base in kind.__mro__
            for name, member in vars(base).items()
            if isinstance(member, types.MemberDescriptorType)
        ),
    )


def check_no_meta_left(state: TrainState, given: Collection[int] = ()) -> bool:
    """Raises LayoutError when model, optimizer or user reach a tensor that has no memory.

    Looks into attributes, containers, partials, bound methods and closures; runs no code of the
    objects. Each object is looked at once. ``given`` are ids of tensors that will get memory.

    Returns:
        Whether scheduler, scaler or an extra reach one: their ``load_state_dict`` may replace it,
        and :func:`check_loaded` is to be called then.
    """
    stateful = list(state.stateful_objects())
    seen = {id(item) for _, item in stateful}
    own = [("model", state.model), ("optimizer", state.optimizer), ("user", state.user)]
    for where in _on_meta(own, seen, given):
        raise _left_on_meta(where)
    seen -= {id(item) for _, item in stateful}
    return any(True for _ in _on_meta(stateful, seen, given))


def check_begun(state: TrainState) -> None:
    """Raises LayoutError when a first state that ``initialize`` has filled has no memory somewhere.

    Tensors of the map have it, the weights among them; others are made by the script.
    """
    for where in _on_meta(list(state.stateful_objects()), set()):
        raise LayoutError(
            f"session: {where!r} has no memory after initialize\n"
            "  expected initialize= to make what no name of a parameter leads to: build runs under "
            "the meta device\n"
            "  nothing was switched; the source state is intact\n"
            "  set it in initialize(state, world), or hand it over in a dict by the names of "
            "parameters: it is given memory then"
        )


def check_loaded(
    state: TrainState, given: Collection[int] = (), waiting: Collection[str] = ()
) -> None:
    """Raises LayoutError when scheduler, scaler or an extra still hold a tensor without memory.

    ``given`` are ids of tensors that will get memory, ``waiting`` names of objects that have loaded
    nothing yet.
    """
    items = list(state.stateful_objects())
    closed = {id(item) for name, item in items if name in waiting}
    for where in _on_meta(items, closed, given):
        raise _left_on_meta(where)


def reaches(roots: list[_Found], item: object) -> bool:
    """Whether a walk from ``roots``, given with their names, comes to this very object."""
    return any(reached.item is item for reached, _ in _walk(roots, set()))


def _on_meta(roots: list[_Found], seen: set[int], given: Collection[int] = ()) -> Iterator[str]:
    """The ways to tensors without memory; ``seen`` are ids of objects that are not looked into."""
    for reached, kind in _walk(roots, seen):
        if kind.is_tensor and reached.item.is_meta and id(reached.item) not in given:
            yield reached.way()


def _walk(roots: list[_Found], seen: set[int]) -> Iterator[tuple[_Reached, _Kind]]:
    """Every object that is looked into, once, from ``roots`` on; ``seen`` grows by their ids."""
    queue: deque[_Reached] = deque(_Reached(where, item, None) for where, item in roots)
    kinds: dict[type, _Kind] = {}
    alive = []  # an id is an object's own only while it lives
    while queue:
        reached = queue.popleft()
        item = reached.item
        if id(item) in seen:
            continue
        kind = kinds.get(type(item)) or kinds.setdefault(type(item), _kind_of(type(item)))
        if kind.is_closed:
            continue
        seen.add(id(item))
        alive.append(item)
        if kind.may_be_released and is_released(item):
            continue  # a replaced state that somebody holds: it is refused when it is used
        yield reached, kind
        for step, value in _held_by(item, kind):
            if type(value) not in _PLAIN:
                queue.append(_Reached(step, value, reached))


def _left_on_meta(where: str) -> LayoutError:
    return LayoutError(
        f"materialize: {where!r} has no memory after build\n"
        "  expected every tensor that the state reaches to be a parameter, a buffer, optimizer "
        "state, or an attribute of a parameter that has its shape: build runs under the meta "
        "device\n"
        "  nothing was switched; the source state is intact\n"
        "  use register_buffer(), persistent=False if it is not saved; make a constant from plain "
        "numbers with device=world.device; or let load_state_dict() of an extra set it"
    )


def _held_by(item: Any, kind: _Kind) -> Iterator[_Found]:
    """What one object holds, with the step that leads there."""
    if kind.is_mapping:
        for key, value in dict.items(item):
            yield f"[{_shown(key)}]", value
            if not isinstance(key, torch.Tensor | str):
                yield f".key({_shown(key)})", key
    elif kind.is_sequence:
        for number, value in enumerate(item):
            yield f"[{number}]", value
    if isinstance(item, functools.partial):
        yield ".func", item.func
        yield ".args", item.args
        yield ".keywords", item.keywords
    elif isinstance(item, types.MethodType):
        yield ".__self__", item.__self__
        yield "", item.__func__
    elif isinstance(item, types.FunctionType):
        yield from _held_by_function(item)
    elif kind.has_attributes:
        yield from _attributes(item, kind)


def _held_by_function(function: types.FunctionType) -> Iterator[_Found]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"<{name}>", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield ".__defaults__", function.__defaults__
    yield ".__kwdefaults__", function.__kwdefaults__


def _attributes(item: Any, kind: _Kind) -> Iterator[_Found]:
    """Entries of the object's own dictionary and slots: no property and no ``__getattr__`` runs."""
    try:
        own = object.__getattribute__(item, "__dict__")
    except AttributeError:
        own = {}
    if kind.is_tensor:  # torch keeps these beside the object's own dictionary
        yield ".hooks", item._backward_hooks
        yield ".hooks", getattr(item, "_post_accumulate_grad_hooks", None)
    for name, value in list(own.items()):
        if name in ("_parameters", "_buffers", "_modules") and isinstance(value, dict):
            yield from ((f".{key}", held) for key, held in value.items())
        else:
            yield f".{name}", value
    for name, member in kind.slots:
        try:
            yield f".{name}", member.__get__(item, type(item))
        except AttributeError:  # a slot without a value
            continue


def _shown(key: object) -> str:
    return repr(key) if isinstance(key, str | int) else type(key).__name__
