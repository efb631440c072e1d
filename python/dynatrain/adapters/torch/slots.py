"""Which tensors that optimizers and extras hold belong to the map, and under which names.

A tensor belongs to it when it is cut as a parameter, or is a DTensor, which says how it is cut. A
plain tensor of another shape is a value: equal on all ranks that have it, or refused.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from dynatrain._errors import LayoutError
from dynatrain._torch_private.tensors import local_tensor
from dynatrain.adapters.port import SlotNote
from dynatrain.adapters.torch import trees

#: First words of notes: a slot, a tensor of an object or all that it has of the map lie on the host
#: while the session's device is another; an object has tensors of the map elsewhere.
ON_HOST, ELSEWHERE = "on host", "elsewhere"
_INTACT = "nothing was switched; the source state is intact"


def told_apart(fqn: str, param: torch.Tensor, held: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """What an optimizer holds for one parameter: tensors of the map by slot, and the rest.

    Tensors inside lists and dicts have slots with the path to them (``history/0``); the rest has
    marks where they stood.

    Raises:
        LayoutError: it is no dict, or two tensors in it would have one slot.
    """
    if not isinstance(held, MutableMapping):
        raise LayoutError(
            f"adapters: an optimizer's state for {fqn!r} is a {type(held).__name__}\n"
            "  expected a dict by names of slots, as torch's own optimizers keep\n"
            f"  {_INTACT}\n"
            '  keep it as optimizer.state[param]["history"] = ..., under any name'
        )
    if type(held) is dict and _is_flat(param, held):
        return dict(held), {}
    names = {
        path: trees.text(path)
        for path, tensor in trees.leaves(held)
        if path and _cut_as(param, path, tensor)
    }
    if not names:
        return {}, held
    if len(set(names.values())) < len(names):
        twice = next(name for name, count in Counter(names.values()).items() if count > 1)
        raise LayoutError(
            f"adapters: an optimizer's state for {fqn!r} has two tensors at {twice!r}\n"
            f"  expected names that stay apart when a path is written with '/'\n  {_INTACT}\n"
            "  rename one of them"
        )
    mapped = {names[path]: tensor for path, tensor in trees.leaves(held) if path in names}
    plainly = {path[0] for path in names if len(path) == 1 and isinstance(path[0], str)}
    rest = trees.taken_out(held, names)
    return mapped, {key: item for key, item in rest.items() if key not in plainly}


def _is_flat(param: torch.Tensor, held: dict[Any, Any]) -> bool:
    """Whether all that is held are tensors of the map under names, as torch's own optimizers do."""
    shape = param.shape
    return all(
        isinstance(tensor, torch.Tensor)
        and type(key) is str
        and (tensor.shape == shape or not tensor.dim() or isinstance(tensor, DTensor))
        for key, tensor in held.items()
    )


def _cut_as(param: torch.Tensor, path: trees.Path, tensor: torch.Tensor) -> bool:
    if tensor.shape == param.shape or tensor.dim() == 0 or isinstance(tensor, DTensor):
        return True
    # Beside a DTensor, a plain tensor of more than one element is a shard that no map describes:
    # it is named as a slot, and refused by its shape.
    return isinstance(param, DTensor) and len(path) == 1 and tensor.numel() > 1


def names_in(
    extra: str,
    tree: Any,
    params: Mapping[str, torch.Tensor],
    named: Callable[[str], str],
) -> dict[trees.Path, str]:
    """Names of the tensors of the map in what an extra hands over, by path.

    These are DTensors, and plain tensors that stand under the name of a parameter and have its
    shape. Where a place in a list leads to one, its name says which parameters this rank has: the
    same place means another tensor where they differ.

    One tensor under several names of a tied parameter has the first of them.

    Args:
        extra: name of the object.
        tree: what it handed over.
        params: parameters by every FQN that they have, the first one first.
        named: the logical name of a parameter.

    Raises:
        LayoutError: a plain tensor is this rank's shard of a parameter.
    """
    names: dict[trees.Path, str] = {}
    own = digest_of(params)
    for path, tensor in trees.leaves(tree):
        key = named(path[-1]) if path and isinstance(path[-1], str) else ""
        param = params.get(key)
        if isinstance(tensor, DTensor) or (param is not None and tensor.shape == param.shape):
            names[path] = name_at(extra, path, key, own)
        elif isinstance(param, DTensor) and tensor.shape == local_tensor(param).shape:
            raise LayoutError(
                f"adapters: {extra} holds a shard of {key!r} as a plain tensor at "
                f"{trees.text(path)!r}\n"
                f"  expected shape {list(param.shape)} or a DTensor, got {list(tensor.shape)}\n"
                "  nothing was switched; the source state is intact\n"
                "  keep DTensors: param.detach().clone() is one"
            )
    return _once(names, tree, params, named)


def name_at(extra: str, path: trees.Path, fqn: str, params: str) -> str:
    """The name of a tensor that an extra holds at a path.

    ``fqn`` is that of its parameter, if it stands under one; ``params`` is a digest of the rank's.
    """
    way = trees.text((*path[:-1], fqn) if fqn else path)
    if any(not isinstance(step, str) for step in path):
        way += f" of {params}"
    return f"{extra}|{way}"


def _once(
    names: Mapping[trees.Path, str],
    tree: Any,
    params: Mapping[str, torch.Tensor],
    named: Callable[[str], str],
) -> dict[trees.Path, str]:
    """``names``, one tensor under several names of one parameter always by the first of them."""
    order = {fqn: number for number, fqn in enumerate(params)}
    together: dict[tuple[trees.Path, int, int], list[trees.Path]] = {}
    for path, tensor in trees.leaves(tree):
        key = named(path[-1]) if path and isinstance(path[-1], str) else ""
        if path in names and key in params:
            together.setdefault((path[:-1], id(tensor), id(params[key])), []).append(path)
    out = dict(names)
    for paths in together.values():
        first = min(paths, key=lambda path: order[named(path[-1])])
        out |= dict.fromkeys(paths, names[first])
    return out


def is_by_place(tree: Any, shapes: Sequence[torch.Size]) -> bool:
    """Whether a list in ``tree`` may have a tensor for each of some parameters, by its place.

    Args:
        tree: what an object handed over.
        shapes: of the parameters, in order; the list may leave some out, such as frozen ones.
    """
    if isinstance(tree, Mapping):
        return any(is_by_place(item, shapes) for item in tree.values())
    if not isinstance(tree, trees.SEQUENCES):
        return False
    if len(tree) > 1 and all(isinstance(item, torch.Tensor) for item in tree):
        rest = iter(shapes)
        return all(any(shape == item.shape for shape in rest) for item in tree)
    return any(is_by_place(item, shapes) for item in tree)


def digest_of(params: Mapping[str, torch.Tensor]) -> str:
    """Tells lists of parameters apart by their names and order."""
    return hashlib.sha256("\n".join(params).encode()).hexdigest()[:8]


def host_notes(name: str, tensors: Mapping[str, torch.Tensor]) -> set[SlotNote]:
    """Which tensors of an object or a slot lie on the host: a word where all do, names else."""
    on_host = {own for own, tensor in tensors.items() if local_tensor(tensor).device.type == "cpu"}
    if len(on_host) == len(tensors):
        return {(ON_HOST, f"{name}|")} if on_host else set()
    return {(ON_HOST, own) for own in on_host} | {(ELSEWHERE, f"{name}|")}


def on_host_in(
    notes: Collection[SlotNote], leads: Collection[str], names: Collection[str]
) -> Iterator[str]:
    """Those of ``names`` that lie on the host in the source.

    Args:
        notes: what all ranks of the source said.
        leads: objects and slots that have some of the names.
        names: names of tensors.

    Raises:
        LayoutError: all that an object or a slot has lies on the host of one rank, some elsewhere
            on another.
    """
    whole = {f"{name}|" for name in leads if (ON_HOST, f"{name}|") in notes}
    for lead in whole:
        if (ELSEWHERE, lead) in notes:
            raise LayoutError(
                f"materialize: {lead[:-1]} has its tensors on the host of one rank, and on the "
                f"device of another\n  expected them at the same kind of place on all ranks\n"
                f"  {_INTACT}\n  keep all of them on the host, or on the session's device"
            )
    for name in names:
        of_object, _, slot = name.partition("|")
        if (ON_HOST, name) in notes or not whole.isdisjoint((f"{of_object}|", f"{slot}|")):
            yield name
