"""The shard map of a described model on a layout."""

from __future__ import annotations

from collections.abc import Sequence

from dynatrain import _native
from dynatrain._errors import LayoutError
from dynatrain.door import checked_count, looking, wrong_argument
from dynatrain.layout import Layout, as_layout
from dynatrain.planning.tensors import (
    ADAMW_SLOTS,
    ITEMSIZE,
    Model,
    Slot,
    TensorSpec,
    checked_model,
)

#: (dimension, split factor); torch's Shard, _StridedShard where the factor is above 1, Replicate.
_Placement = tuple[int, int]
_REPLICATE: _Placement = (-1, 1)


def describe(
    layout: Layout | str,
    tensors: Sequence[TensorSpec],
    slots: Sequence[Slot] = ADAMW_SLOTS,
    ranks: Sequence[int] | None = None,
) -> _native.ShardMap:
    """The shard map of a described model: FSDP2 inside TP, experts over EP, stages by layer.

    FSDP cuts dimension 0, of experts too while there is one for each rank that shares them;
    where there is none it cuts dimension 1, as torchtitan does.

    Args:
        layout: where the model would live.
        tensors: its parameters.
        slots: what each parameter brings: itself and its optimizer state.
        ranks: the number in the map of each of the layout's ranks; by default its own.

    Raises:
        LayoutError: there are fewer layers than stages, or no experts to be parallel.
    """
    target = as_layout(layout)
    numbers = _numbers(target, ranks)
    model = Model("", checked_model("describe", tensors).tensors, tuple(slots))
    tensors, slots, num_layers = model.tensors, model.slots, model.num_layers
    _check_experts(target, tensors)
    publications = []
    for pp_rank in range(target.pp):
        layers = {layer for part in target.layers(pp_rank, num_layers) for layer in part}
        stage = [spec for spec in tensors if layers.intersection(spec.layers)]
        table = _stage_table(target, pp_rank, stage, slots)
        held_by = [numbers[rank] for rank in target.native.stage_mesh(pp_rank)[1]]
        publications.append((table.encode_as(numbers), held_by))
    return _native.ShardMap.merge(publications)


def _numbers(layout: Layout, ranks: Sequence[int] | None) -> list[int]:
    if ranks is None:
        return list(range(layout.world_size))
    with looking("describe", "ranks", ranks, "a number for each rank of the layout"):
        numbers = [checked_count("describe", "ranks", rank) for rank in ranks]
    if len(set(numbers)) != layout.world_size or len(numbers) != layout.world_size:
        expected = f"{layout.world_size} numbers, each once"
        raise wrong_argument("describe", "ranks", numbers, expected)
    return numbers


def _check_experts(layout: Layout, tensors: Sequence[TensorSpec]) -> None:
    most = max((spec.shape[0] for spec in tensors if spec.has_experts), default=0)
    if layout.ep > max(most, 1):
        raise LayoutError(
            f"plan: {layout} cannot place the experts of this model\n"
            f"  expected ep of at most {max(most, 1)}, as many as a layer has experts, got "
            f"{layout.ep}\n  nothing was planned\n"
            "  leave ep out for a model without experts, or choose a smaller one"
        )


def _stage_table(
    layout: Layout, pp_rank: int, stage: Sequence[TensorSpec], slots: Sequence[Slot]
) -> _native.StateTable:
    table = _native.StateTable()
    mesh = table.add_mesh(*layout.native.stage_mesh(pp_rank))
    has_experts = any(spec.has_experts for spec in stage)
    experts = table.add_mesh(*layout.native.expert_mesh(pp_rank)) if has_experts else mesh
    known: dict[tuple[object, ...], list[_Placement]] = {}
    for spec in stage:
        alike = (spec.has_experts, spec.tp_dim, spec.shape[:1])
        if alike not in known:
            known[alike] = _placements(layout, spec)
        placements, where = known[alike], experts if spec.has_experts else mesh
        for slot in slots:
            dtype = slot.dtype or spec.dtype
            name = f"{spec.fqn}|{slot.name}"
            # No memory stands behind a described tensor: address 0, and no local extents.
            size = ITEMSIZE[dtype]
            table.add_sharded(name, spec.shape, dtype, size, where, placements, 0, (), ())
    return table


def _placements(layout: Layout, spec: TensorSpec) -> list[_Placement]:
    if spec.has_experts:
        return _expert_placements(layout, spec)
    return [_placement(layout, axis, spec) for axis in layout.order if axis != "pp"]


def _placement(layout: Layout, axis: str, spec: TensorSpec) -> _Placement:
    if axis == "tp" and spec.tp_dim is not None:
        return (spec.tp_dim, 1)
    if axis in ("dp_shard", "cp") and spec.shape:
        # What tensor parallelism has cut before, though its axis comes later: torch counts those.
        is_later = layout.order.index("tp") > layout.order.index(axis)
        return (0, layout.tp if spec.tp_dim == 0 and is_later else 1)
    return _REPLICATE


def _expert_placements(layout: Layout, spec: TensorSpec) -> list[_Placement]:
    sharing = layout.native.efsdp_size
    if sharing * layout.ep <= spec.shape[0]:
        fsdp = (0, layout.ep)
    else:
        fsdp = (1, layout.etp if spec.tp_dim == 1 else 1)
    etp = _REPLICATE if spec.tp_dim is None else (spec.tp_dim, 1)
    return [_REPLICATE, fsdp, (0, 1), etp]
