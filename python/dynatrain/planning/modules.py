"""A described model made of a real one, on whatever device: none of its memory is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dynatrain._errors import LayoutError
from dynatrain.door import looking, wrong_argument
from dynatrain.given import whole
from dynatrain.planning.catalog import checked_optimizer
from dynatrain.planning.tensors import ITEMSIZE, Model, TensorSpec

#: The first number of a name counts layers, as in ``model.layers.3.mlp.weight``.
_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")


def model_of(
    module: nn.Module, optimizer: str = "adamw", tp_dims: Mapping[str, int] | None = None
) -> Model:
    """A module on paper: its parameters, where tensor parallelism cuts them, and their layers.

    What is a DTensor says itself how it is cut: by the mesh dimension called ``tp``, and by ``ep``
    along dimension 0. A parameter whose name has no number belongs to the first layer where it is
    called before the first one that has, else to the last.

    Args:
        module: the model; one under ``torch.device("meta")`` takes no memory.
        optimizer: as in :func:`load_model`.
        tp_dims: of plain tensors, the dimension that tensor parallelism cuts, by patterns of
            names such as ``*.q_proj.weight``; the first that matches counts.

    Raises:
        LayoutError: the module has no parameters, one is of a dtype that has no plan, or an
            argument is none of its kind.
    """
    if not isinstance(module, nn.Module):
        raise wrong_argument("model_of", "module", module, "a torch.nn.Module")
    slots = checked_optimizer(optimizer)
    patterns = _checked_patterns(tp_dims)
    found: dict[int, tuple[str, Tensor]] = {}
    key_of: dict[str, int] = {}  # of each name, in the module's order; tied ones share one
    for name, param in module.named_parameters(remove_duplicate=False):
        clean = name
        for wrapper in _WRAPPERS:
            clean = clean.replace(wrapper, "")
        found.setdefault(id(param), (clean, param))
        key_of[clean] = id(param)
    if not found:
        raise wrong_argument("model_of", "module", type(module).__name__, "one with parameters")
    layers_of: dict[int, set[int]] = {}
    for name, layer in _layers([*key_of]).items():
        layers_of.setdefault(key_of[name], set()).add(layer)
    specs = [
        _spec(name, param, tuple(sorted(layers_of[key])), patterns)
        for key, (name, param) in found.items()
    ]
    return Model(type(module).__name__, tuple(specs), slots)


def _checked_patterns(tp_dims: Any) -> dict[str, int]:
    expected = "a mapping of patterns of names to dimensions, such as {'*.q_proj.weight': 0}"
    with looking("model_of", "tp_dims", tp_dims, expected):
        items = dict(tp_dims or {})
    if not all(isinstance(key, str) and whole(dim) is not None for key, dim in items.items()):
        raise wrong_argument("model_of", "tp_dims", tp_dims, expected)
    return items


def _layers(names: list[str]) -> dict[str, int]:
    """The layer of each name, counted from 0 without gaps."""
    numbers = {name: _LAYER.search(name) for name in names}
    told = sorted({int(match[1]) for match in numbers.values() if match})
    place = {number: at for at, number in enumerate(told)}
    first = next((at for at, name in enumerate(names) if numbers[name]), 0)
    last = max(len(told) - 1, 0)
    layers = {}
    for at, name in enumerate(names):
        match = numbers[name]
        layers[name] = place[int(match[1])] if match else (0 if at < first else last)
    return layers


def _spec(
    name: str, param: Tensor, layers: tuple[int, ...], patterns: Mapping[str, int]
) -> TensorSpec:
    dtype = str(param.dtype).removeprefix("torch.")
    if dtype not in ITEMSIZE:
        raise LayoutError(
            f"plan: cannot plan {name!r}, whose elements are {dtype}\n"
            f"  expected one of {', '.join(sorted(ITEMSIZE))}\n  nothing was planned\n"
            "  leave it out of the model that is planned"
        )
    tp_dim, has_experts = _cut_of(param)
    if tp_dim is None:
        chosen = (dim for pattern, dim in patterns.items() if fnmatchcase(name, pattern))
        tp_dim = next(chosen, None)
    return TensorSpec(name, tuple(param.shape), tp_dim, layers, dtype, has_experts)


def _cut_of(param: Tensor) -> tuple[int | None, bool]:
    """The dimension that ``tp`` cuts, and whether ``ep`` cuts the first one."""
    tp_dim, has_experts = None, False
    if isinstance(param, DTensor):
        axes = param.device_mesh.mesh_dim_names or ()
        for axis, placement in zip(axes, param.placements, strict=False):
            dim = getattr(placement, "dim", None)
            if axis in ("tp", "etp"):
                tp_dim = dim
            has_experts = has_experts or (axis == "ep" and dim == 0)
    return tp_dim, has_experts
