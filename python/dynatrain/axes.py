"""Names of axes and the ranks along them: those of a layout, those made of several, experts'.

Rank numbers only; the groups and meshes over them are made in ``world.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import prod

from dynatrain._errors import LayoutError
from dynatrain.given import shown, text
from dynatrain.layout import MESH_AXES, Layout

#: Axes that frameworks name and that are several of a layout's, by torchtitan's words.
COMBINED = {
    "dp": ("dp_replicate", "dp_shard"),
    "batch": ("dp_replicate", "dp_shard"),
    "dp_shard_cp": ("dp_shard", "cp"),
    "fsdp": ("dp_shard", "cp"),
    "dp_cp": ("dp_replicate", "dp_shard", "cp"),
    "loss": ("dp_replicate", "dp_shard", "cp"),
}
#: Axes that experts have in place of these.
EXPERT, IN_PLACE_OF = ("efsdp", "ep", "etp"), ("dp_shard", "cp", "tp")
#: What a dimension of a mesh is made of: one name, or several.
Axes = str | Sequence[str]


def expert_sizes(layout: Layout) -> dict[str, int]:
    """Sizes of the experts' axes; 1 each but for ``efsdp`` without expert parallelism.

    Raises:
        LayoutError: the layout has another order of axes than the default.
    """
    if layout.order != MESH_AXES:
        raise LayoutError(
            f"layout: expert parallelism asks for the default order of axes, got {layout.order}\n"
            "  nothing was moved\n  leave out order="
        )
    dense = layout.dp_shard * layout.cp * layout.tp
    return dict(
        zip(EXPERT, (dense // (layout.ep * layout.etp), layout.ep, layout.etp), strict=True)
    )


def atoms(layout: Layout, axes: Axes) -> tuple[str, ...]:
    """The axes of a layout, or the experts', that ``axes`` is made of, in the layout's order.

    Raises:
        LayoutError: there is no such axis.
    """
    found = {part for name in _names(axes) for part in COMBINED.get(name, (name,))}
    return tuple(axis for axis in (*layout.order, *EXPERT) if axis in found)


def _names(axes: Axes) -> Iterator[str]:
    """The names in ``axes``, each of them known."""
    given: list[object] = [axes]
    with suppress(Exception):  # no sequence: refused by what it is
        if not isinstance(axes, str):
            given = list(axes)
    for item in given:
        name = text(item)
        if name not in (*MESH_AXES, *EXPERT, *COMBINED):
            raise LayoutError(
                f"world: there is no axis {shown(item)}\n"
                f"  expected one of {', '.join((*MESH_AXES, *EXPERT, *COMBINED))}\n"
                "  nothing was moved\n  name one of these, or several as a tuple"
            )
        yield name


def size(layout: Layout, axes: Axes) -> int:
    """How many ranks differ along ``axes``, also combined ones or the experts'."""
    return prod(
        expert_sizes(layout)[part] if part == "efsdp" else layout.size(part)
        for part in atoms(layout, axes)
    )


def enabled(layout: Layout, axes: Axes) -> tuple[str, ...]:
    """Those of :func:`atoms` that have more than one rank; experts' stand for themselves alone.

    Raises:
        LayoutError: there is no such axis, or an expert axis stands beside one that it replaces.
    """
    parts = atoms(layout, axes)
    _check_one_mesh(parts)
    return tuple(part for part in parts if size(layout, part) > 1)


def _check_one_mesh(parts: Sequence[str]) -> None:
    if any(part in EXPERT for part in parts) and any(part in IN_PLACE_OF for part in parts):
        raise LayoutError(
            f"world: {', '.join(parts)} cannot be axes of one mesh\n"
            f"  {', '.join(EXPERT)} are for experts in place of {', '.join(IN_PLACE_OF)}\n"
            "  nothing was moved\n  make two meshes, one of each"
        )


def ranks_along(layout: Layout, rank: int, axes: Axes) -> list[int]:
    """The ranks that differ from ``rank`` along ``axes`` only, ascending."""
    parts = atoms(layout, axes)
    experts = [part for part in parts if part in EXPERT]
    if not experts:
        return layout.group(rank, *parts)
    _check_one_mesh(parts)
    sizes = expert_sizes(layout)
    block = sizes["efsdp"] * sizes["ep"] * sizes["etp"]
    own = _coordinates(rank % block, sizes)
    near = [
        other
        for other in range(block)
        if all(c == own[e] for e, c in _coordinates(other, sizes).items() if e not in experts)
    ]
    dense = [part for part in parts if part not in EXPERT]
    bases = layout.group(rank, *dense) if dense else [rank]
    return [base - base % block + other for base in bases for other in near]


def coordinate(layout: Layout, rank: int, axes: Axes) -> int:
    """Where ``rank`` stands among the ranks along ``axes``."""
    return ranks_along(layout, rank, axes).index(rank)


def _coordinates(place: int, sizes: dict[str, int]) -> dict[str, int]:
    found = {}
    for axis in reversed(sizes):
        found[axis] = place % sizes[axis]
        place //= sizes[axis]
    return found
