"""Names of axes and the ranks along them: those of a layout, those made of several, experts'.

Rank numbers only; the groups and meshes over them are made in ``world.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynatrain._errors import LayoutError
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
    names = (axes,) if isinstance(axes, str) else tuple(axes)
    found = {part for name in names for part in COMBINED.get(name, (name,))}
    unknown = sorted(str(name) for name in found - {*MESH_AXES, *EXPERT})
    if unknown:
        raise LayoutError(
            f"world: there is no axis {unknown[0]!r}\n"
            f"  expected one of {', '.join((*MESH_AXES, *EXPERT, *COMBINED))}\n"
            "  nothing was moved\n  name one of these, or several as a tuple"
        )
    return tuple(axis for axis in (*layout.order, *EXPERT) if axis in found)


def size(layout: Layout, axis: str) -> int:
    """How many ranks an axis has, also a combined one or one of the experts'."""
    if axis == "efsdp":
        return expert_sizes(layout)[axis]
    count = 1
    for part in COMBINED.get(axis, (axis,)):
        count *= layout.size(part)
    return count


def ranks_along(layout: Layout, rank: int, axes: Axes) -> list[int]:
    """The ranks that differ from ``rank`` along ``axes`` only, ascending."""
    parts = atoms(layout, axes)
    experts = [part for part in parts if part in EXPERT]
    if not experts:
        return layout.group(rank, *parts)
    if any(part in IN_PLACE_OF for part in parts):
        raise LayoutError(
            f"world: {', '.join(parts)} cannot be axes of one mesh\n"
            f"  {', '.join(EXPERT)} are for experts in place of {', '.join(IN_PLACE_OF)}\n"
            "  nothing was moved\n  make two meshes, one of each"
        )
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
