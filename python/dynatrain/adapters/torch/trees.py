"""Tensors inside dicts, lists, tuples and deques: taken out under names, and put back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch

from dynatrain.adapters.torch.codec import readable

#: What has places, besides dicts, which have keys.
SEQUENCES = (list, tuple, deque)
#: Where something lies in a tree: keys of dicts, places in sequences.
Path = tuple[Any, ...]
#: How many objects deep a tensor is looked for in what optimizers keep.
_MAX_DEPTH = 3


@readable
@dataclass(frozen=True)
class Mapped:
    """Stands where a tensor was taken out."""

    name: str


def leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, torch.Tensor]]:
    """Every tensor in a tree, with its path."""
    if isinstance(tree, torch.Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from leaves(item, (*path, key))
    elif isinstance(tree, SEQUENCES):
        for place, item in enumerate(tree):
            yield from leaves(item, (*path, place))


def uncut(tree: Any) -> str | None:
    """Where a tree holds a tensor of more than one element, in words; None where it holds none.

    Looks into sets and the attributes of objects as well, where tensors are not mapped.
    """
    for path, leaf in _all_leaves(tree, (), 0):
        if leaf.numel() > 1:
            return text(path)
    return None


def _all_leaves(tree: Any, path: Path, depth: int) -> Iterator[tuple[Path, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from _all_leaves(item, (*path, key), depth)
    elif isinstance(tree, (*SEQUENCES, set, frozenset)):
        for place, item in enumerate(tree):
            yield from _all_leaves(item, (*path, place), depth)
    elif depth < _MAX_DEPTH and not isinstance(tree, type):
        for key, item in getattr(tree, "__dict__", {}).items():
            yield from _all_leaves(item, (*path, key), depth + 1)


def text(path: Path) -> str:
    """A path as part of a name."""
    return "/".join(str(key) for key in path)


def replaced(tree: Any, change: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """A tree with every leaf ``change(path, leaf)``; what holds no changed leaf is not copied."""
    if isinstance(tree, Mapping):
        items: Any = {key: replaced(item, change, (*path, key)) for key, item in tree.items()}
        if all(items[key] is tree[key] for key in items):
            return tree
        out: Any = copy(tree)
        out.update(items)
        return out
    if isinstance(tree, SEQUENCES):
        items = [replaced(item, change, (*path, place)) for place, item in enumerate(tree)]
        if all(new is item for new, item in zip(items, tree, strict=True)):
            return tree
        return _again(tree, items)
    return change(path, tree)


def _again(tree: Any, items: list[Any]) -> Any:
    """A sequence of the class of ``tree`` with other items."""
    if hasattr(tree, "_fields"):
        return type(tree)(*items)
    return type(tree)(items, tree.maxlen) if isinstance(tree, deque) else type(tree)(items)


def taken_out(tree: Any, names: Mapping[Path, str]) -> Any:
    """A tree with :class:`Mapped` at every path of ``names``."""
    return replaced(tree, lambda path, leaf: Mapped(names[path]) if path in names else leaf)


def put_back(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """A tree with a tensor where :func:`taken_out` took one out."""
    return replaced(tree, lambda _, leaf: tensors[leaf.name] if isinstance(leaf, Mapped) else leaf)


def without(tree: Any, paths: Mapping[Path, str]) -> Any:
    """A tree without the dict entries at ``paths``; places of sequences stay, marked."""
    marked = taken_out(tree, paths)
    return _dropped(marked)


def _dropped(tree: Any) -> Any:
    """A tree without marked dict entries; what holds none is not copied."""
    if isinstance(tree, Mapping):
        items = {k: _dropped(item) for k, item in tree.items() if not isinstance(item, Mapped)}
        if len(items) == len(tree) and all(items[key] is tree[key] for key in items):
            return tree
        out: Any = copy(tree)
        for key in [key for key in tree if key not in items]:
            del out[key]
        out.update(items)
        return out
    if isinstance(tree, SEQUENCES):
        places = [_dropped(item) for item in tree]
        if all(new is item for new, item in zip(places, tree, strict=True)):
            return tree
        return _again(tree, places)
    return tree


def inserted(tree: Any, path: Path, tensor: torch.Tensor) -> None:
    """Puts a tensor at a path whose last step is a key; dicts on the way are made where missing."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {}) if isinstance(tree, dict) else tree[key]
    tree[path[-1]] = tensor


def marks(tree: Any) -> Iterator[str]:
    """Names of the tensors that were taken out of a tree."""
    if isinstance(tree, Mapped):
        yield tree.name
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from marks(item)
    elif isinstance(tree, SEQUENCES):
        for item in tree:
            yield from marks(item)
