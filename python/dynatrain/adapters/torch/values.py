"""Training state that is no tensor of the map: read, held against a target, put into it.

| shared name | holds | keyed by |
|---|---|---|
| ``param_groups`` | options of groups, what optimizers keep beside slots | role and FQN |
| ``optimizer.state`` | values that an optimizer has for a parameter | role and FQN |
| ``modules`` | state behind ``get_extra_state`` | FQN |
| ``scheduler``, ``scaler``, ``extra.*`` | what ``state_dict()`` returned | the name |
| ``hooks and requires_grad`` | what the script has set of them, if it has | what it is and FQN |

Ranks that have a key must mean the same by it; pipeline stages have keys that others lack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from dynatrain import _native
from dynatrain._errors import LayoutError
from dynatrain.adapters.port import Part, Published
from dynatrain.adapters.torch import groups, hooks, identity, objects, outside, schedulers, trees
from dynatrain.adapters.torch.inventory import LiveTensors, iter_optimizer_params
from dynatrain.adapters.torch.meaning import difference, digest
from dynatrain.adapters.torch.objects import Told
from dynatrain.adapters.torch.optimizers import Holder, put_beside
from dynatrain.adapters.torch.outside import OUTSIDE

#: Names of shared values beside those of the Stateful objects.
GROUPS, OPTIMIZER_VALUES, MODULES = "param_groups", "optimizer.state", "modules"
_KEYED = (OPTIMIZER_VALUES, MODULES)
_INTACT = "nothing was switched; the source state is intact"


def read_shared(live: LiveTensors) -> dict[str, Any]:
    """Reads what a state depends on besides tensors, by name."""
    objects.check_modules(live.state)
    return {
        **{name: objects.told(live, name, item) for name, item in live.state.shared_objects()},
        GROUPS: groups.read_groups(live),
        OPTIMIZER_VALUES: dict(live.values),
        MODULES: hooks.read_extra_states(live),
    }


def read_outside(live: LiveTensors) -> dict[str, outside.Found]:
    """What the script has set, if it has: held against a target, and no part of a state."""
    set_outside = live.set_outside()
    return {OUTSIDE: set_outside} if set_outside else {}


def hashes(shared: Mapping[str, Any]) -> frozenset[int]:
    """One number for each value and what it means; those of all ranks, joined, tell a state."""
    lines = {
        f"{name}|{key!r}|{digest(held).hex()}"
        for name in _KEYED
        for key, held in shared.get(name, {}).items()
    }
    for held in shared.get(GROUPS, ()):
        if held.beside:
            lines.add(f"beside|{held.role}|{digest(held.beside).hex()}")
        for group in held.groups:
            options = digest(group.options).hex()
            lines |= {f"{GROUPS}|{held.role}|{fqn}|{options}" for fqn in group.fqns}
    for name, told in shared.items():
        if isinstance(told, Told):
            lines.add(f"{name}|{digest(told.state).hex()}")
    return frozenset(_native.hash64(line.encode()) for line in lines)


# ---- before any byte moves -----------------------------------------------------------------------


def check_agreement(published: Published) -> groups.Origins:
    """Refuses values that ranks of the source contradict each other about.

    Raises:
        LayoutError: it names the value, the key and two ranks.
    """
    for name, parts in published.shared.items():
        if name in _KEYED:
            _merged(name, parts)
        elif name not in (GROUPS, OUTSIDE):
            for part in parts[1:]:
                told = [
                    p.value.state if isinstance(p.value, Told) else p.value
                    for p in (parts[0], part)
                ]
                _check_same(name, (parts[0], part), (told[0], told[1]))
    return groups.Origins(published.shared.get(GROUPS, ()))


def _fqn(key: Any) -> Any:
    return key[-1] if isinstance(key, tuple) else key


def _merged(name: str, parts: Sequence[Part]) -> dict[Any, Any]:
    """What all ranks have by key."""
    first: dict[Any, Part] = {}
    for part in parts:
        for key, value in part.value.items():
            known = first.setdefault(key, part)
            if known is not part:
                where = f"{name} of {_fqn(key)!r}"
                _check_same(where, (known, part), (known.value[key], value))
    return {key: part.value[key] for key, part in first.items()}


def _check_same(name: str, parts: tuple[Part, Part], told: tuple[Any, Any]) -> None:
    where = difference(*told)
    if where is None:
        return
    first, second = (part.ranks[0] for part in parts)
    advice = (
        "make it equal on all ranks first, or name it in TrainState(per_rank=) if it belongs to "
        "its rank"
        if name.startswith("extra.")
        else "give it per_rank = True as an attribute if it belongs to its rank"
        if name.startswith("keep.")
        else "make it equal on all ranks first, or keep it in an extra named in "
        "TrainState(per_rank=)"
    )
    raise LayoutError(
        f"adapters: {name} differs between ranks {first} and {second}\n"
        f"  {where.removeprefix('.')}\n  {_INTACT}\n  {advice}"
    )


def check_shared(live: LiveTensors, published: Published, origins: groups.Origins) -> None:
    """Holds the source's values against ``live``, then loads what needs no tensor of the map.

    Raises:
        LayoutError: the target does not take them.
    """
    for part in published.shared.get(OUTSIDE, ()):
        outside.check(live.state, part.value)
    objects.check_objects(live, published)
    groups.check_groups(live, origins)
    schedulers.check_schedulers(live, origins)
    values = _merged(OPTIMIZER_VALUES, published.shared.get(OPTIMIZER_VALUES, ()))
    for holder in live.holders:
        _check_slot_values(live, holder, values, origins)
    _check_shared_by_slots(live, published)
    states = _merged(MODULES, published.shared.get(MODULES, ()))
    for fqn, _ in hooks.with_extra_state(live):
        if fqn not in states:
            raise LayoutError(
                f"adapters: module {fqn!r} of the target has get_extra_state, of which the source "
                f"has none\n  the source has {sorted(states)[:8]}\n  {_INTACT}\n"
                "  make the same modules in build for every layout"
            )
    objects.load_objects(live, published, with_tensors=False)
    hooks.take_extra_states(live, states)
    groups.take_groups(live, origins)
    for holder in live.holders:
        _take_beside(live, holder, origins)
    schedulers.check_counts(live)


def _check_slot_values(
    live: LiveTensors, holder: Holder, values: Mapping[Any, Any], origins: groups.Origins
) -> None:
    """A tensor that is not cut as its parameter means the same only where nothing is cut anew."""
    of = ((param, live.fqn(param)) for param in holder.params())
    found = [(param, fqn, trees.uncut(values.get((holder.role, fqn)))) for param, fqn in of]
    uncut = [(param, fqn, what) for param, fqn, what in found if what is not None]
    if not uncut:
        return
    cut = [item for item in uncut if isinstance(item[0], DTensor)]
    if cut or not _is_whole(live, holder, origins):
        _, fqn, what = (cut or uncut)[0]
        raise LayoutError(
            f"adapters: {holder.words} keeps {what!r} for {fqn!r}, which is not cut as its "
            "parameter\n"
            "  expected the parameter's shape, or whole parameters and the same ones in both "
            f"layouts\n  {_INTACT}\n"
            "  choose a layout that does not shard or stage the model, or another optimizer"
        )


def _check_shared_by_slots(live: LiveTensors, published: Published) -> None:
    here = {fqn for _, param in iter_optimizer_params(live) for fqn in live.fqns(param)}
    for part in published.shared.get(OPTIMIZER_VALUES, ()):
        fqns = {key: str(_fqn(key)) for key in part.value}
        identity.check_not_split("an optimizer", part.value, fqns, here)


def _is_whole(live: LiveTensors, holder: Holder, origins: groups.Origins) -> bool:
    """Whether an optimizer has the same parameters, in the same order, as those of the source."""
    own = [fqn for one in holder.params() for fqn in live.fqns(one)]
    return all(held.fqns == own for held in origins.all_of(holder, live))


def _take_beside(live: LiveTensors, holder: Holder, origins: groups.Origins) -> None:
    sources = origins.all_of(holder, live)
    for held in sources[1:]:
        where = difference(sources[0].beside, held.beside)
        if where is not None:
            raise LayoutError(
                f"adapters: what {holder.words} keeps beside its slots differs between ranks\n"
                f"  {where.removeprefix('.')}\n  {_INTACT}\n"
                "  make it equal on all ranks first"
            )
    if not sources:
        return
    uncut = trees.uncut(sources[0].beside)
    cut = any(isinstance(param, DTensor) for param in holder.params())
    if uncut is not None and (cut or not _is_whole(live, holder, origins)):
        raise LayoutError(
            f"adapters: {holder.words} keeps the tensor {uncut!r} for all its parameters together\n"
            f"  expected whole parameters and the same ones in both layouts\n  {_INTACT}\n"
            "  choose a layout that does not shard or stage the model, or another optimizer"
        )
    put_beside(holder, deepcopy(sources[0].beside))


# ---- when the bytes have arrived -----------------------------------------------------------------


def take_shared(live: LiveTensors, published: Published) -> None:
    """Puts what waits for tensors of the map into the state of ``live``."""
    values = _merged(OPTIMIZER_VALUES, published.shared.get(OPTIMIZER_VALUES, ()))
    copied: dict[int, Any] = {}  # what parameters share, they go on to share
    for holder, param in iter_optimizer_params(live):
        held = values.get((holder.role, live.fqn(param)))
        if held:
            _take_slots(live, holder, param, deepcopy(held, copied))
    objects.load_objects(live, published, with_tensors=True)


def _take_slots(live: LiveTensors, holder: Holder, param: torch.Tensor, held: Any) -> None:
    fqn = live.fqn(param)
    marks = list(trees.marks(held))
    slots = holder.keeper.state[param]
    for mark in marks:
        slots.pop(mark, None)
    slots.update(trees.put_back(held, {mark: live.tensors[f"{fqn}|{mark}"] for mark in marks}))


# ---- what no rank takes --------------------------------------------------------------------------


def keys_of(published: Published) -> list[str]:
    """What a target has to take, in an order that is the same on all ranks."""
    whole = {
        name for name in published.shared if name not in _KEYED and name.split(".")[0] != "keep"
    }
    keyed = {
        f"{name} of {_fqn(key)!r}"
        for name in (*_KEYED, OUTSIDE)
        for part in published.shared.get(name, ())
        for key in part.value
    }
    optimized = {
        f"{GROUPS} of {fqn!r}"
        for part in published.shared.get(GROUPS, ())
        for held in part.value
        for fqn in held.fqns
    }
    own = {f"{name} of its rank" for name in published.per_rank if name.startswith("extra.")}
    return sorted((whole - {GROUPS, OUTSIDE}) | keyed | optimized | own)


def keys_taken(live: LiveTensors, published: Published) -> set[str]:
    """What the state of ``live`` takes of what was published, in the words of :func:`keys_of`."""
    here = outside.names(live.state) if OUTSIDE in published.shared else set()
    kept = [fqn for _, param in iter_optimizer_params(live) for fqn in live.fqns(param)]
    every = [param for holder in live.holders for param in holder.params()]
    return {
        *(name for name, _ in live.state.shared_objects()),
        *(f"{name} of its rank" for name, _ in live.state.per_rank_objects()),
        *(f"{OUTSIDE} of {fqn!r}" for fqn in here),
        *(f"{MODULES} of {fqn!r}" for fqn, _ in hooks.with_extra_state(live)),
        *(f"{GROUPS} of {fqn!r}" for param in every for fqn in live.fqns(param)),
        *(f"{OPTIMIZER_VALUES} of {fqn!r}" for fqn in kept),
    }


def check_left(left: Sequence[str]) -> None:
    """Refuses state that no rank of the target takes: it would be lost without a word."""
    if left:
        raise LayoutError(
            f"adapters: the source has {left[0]!r}, which no rank of the target takes\n"
            f"  {len(left)} such in all: {list(left)[:6]}\n  {_INTACT}\n"
            "  return the same modules, optimizers, schedulers, scaler and extras from build for "
            "every layout"
        )
