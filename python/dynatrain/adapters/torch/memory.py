"""Optimizer slots, and memory behind everything that build made on the meta device."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor

from dynatrain._errors import LayoutError
from dynatrain._torch_private.tensors import local_tensor, refresh_fsdp_memory
from dynatrain._torch_private.zero import send_from
from dynatrain.adapters.port import Slots
from dynatrain.adapters.torch import attributes, derived, leftovers, sharing, ties
from dynatrain.adapters.torch.blocks import Blocks, aligned, can_be_read
from dynatrain.adapters.torch.inventory import (
    HELD,
    LiveTensors,
    iter_optimizer_params,
    scalar_slots,
    slots_by_fqn,
)
from dynatrain.adapters.torch.names import BUFFER, PARAM, dtype_named
from dynatrain.adapters.torch.placing import check_held, fresh, place, span_bytes, wrap_like
from dynatrain.adapters.torch.slots import ON_HOST, on_host_in
from dynatrain.adapters.torch.storages import Emptied, empty
from dynatrain.train_state import TrainState


def make_slots(state: TrainState, slots: Slots) -> None:
    """Creates, on meta, the optimizer slots that the source has for the parameters of ``state``.

    Raises:
        LayoutError: a slot has neither its parameter's shape nor no dimension at all, or tensors
            that are one memory in the source would come apart.
    """
    live = LiveTensors(state)
    names = slots_by_fqn(slots.source)
    sharing.check_shared_in_source(live.live(), slots.notes)
    for name in on_host_in(slots.notes, live.objects, live.tensors):
        live.tensors[name].dynatrain_on_host = True  # type: ignore[attr-defined]
    has_0d_shards = any(isinstance(p, DTensor) and not p.dim() for p in live.params().values())
    scalars = scalar_slots(slots.source) if has_0d_shards else frozenset[str]()
    kinds = attributes.kinds_of_source(slots.notes)
    for holder, param in iter_optimizer_params(live):
        fqn = live.fqn(param)
        for slot in names.get(fqn, ()):
            if (HELD, holder.role, slot) in slots.notes:
                is_plain = attributes.is_plain(kinds, slot, fqn)
                like = torch.empty(param.shape, device="meta") if is_plain else param
                made = _made(slots, fqn, slot, like)
                if is_plain:
                    attributes.remember_plain(made)
                # Of a parameter without a dimension, every slot looks like a scalar.
                is_cut = not param.dim() and slot not in scalars
                holder.keeper.state[param][slot] = wrap_like(param, made) if is_cut else made
    _make_attributes(live, slots, names, kinds)
    if any(note[0] == sharing.OVERLAP for note in slots.notes):
        sharing.check_kept(dict(LiveTensors(state).live()), slots.notes)


def _make_attributes(
    live: LiveTensors,
    slots: Slots,
    names: Mapping[str, Collection[str]],
    kinds: Mapping[str, attributes.Kind],
) -> None:
    unmapped = attributes.unmapped_of_source(slots.notes)
    for fqn, tensor in live.params().items():
        attributes.check_unmapped(fqn, tensor, unmapped.get(fqn, ()))
        for slot in filter(attributes.is_attribute, names.get(fqn, ())):
            if f"{fqn}|{slot}" not in live.tensors:
                made = _made(slots, fqn, slot, tensor)
                plain = attributes.is_plain(kinds, slot, fqn)
                attributes.put_on(tensor, slot, made, plain=plain)


def _made(slots: Slots, fqn: str, slot: str, param: torch.Tensor) -> torch.Tensor:
    _check_same_shape(slots, fqn, param)
    shape, dtype, _ = slots.source.info(f"{fqn}|{slot}")
    tensor = _slot_like(param, tuple(shape), dtype_named(dtype, f"{fqn}|{slot}"), f"{fqn}|{slot}")
    is_on_host = (ON_HOST, slot) in slots.notes if not shape else _is_on_host(slots, fqn, slot)
    if is_on_host:
        for each in (tensor, local_tensor(tensor)):
            each.dynatrain_on_host = True  # type: ignore[attr-defined]
    return tensor


def _is_on_host(slots: Slots, fqn: str, slot: str) -> bool:
    return any(True for _ in on_host_in(slots.notes, [slot], [f"{fqn}|{slot}"]))


def _check_same_shape(slots: Slots, fqn: str, param: torch.Tensor) -> None:
    """Refuses a parameter of another shape by itself: its slots are not to blame."""
    in_source = tuple(slots.source.info(f"{fqn}|{PARAM}")[0])
    if in_source != tuple(param.shape):
        raise LayoutError(
            f"materialize: parameter {fqn!r} has shape {list(in_source)} in the source\n"
            f"  build makes it of shape {list(param.shape)} for the target\n"
            "  nothing was switched; the source state is intact\n"
            "  build the same model for every layout; names= of the call, if it has them, have to "
            "lead to a parameter of the same shape"
        )


def _slot_like(
    param: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, name: str
) -> torch.Tensor:
    if not shape:
        return torch.empty((), dtype=dtype, device="meta")
    if shape == tuple(param.shape):
        local = local_tensor(param)
        return wrap_like(param, torch.empty_like(local, dtype=dtype, device="meta"))
    raise LayoutError(
        f"materialize: optimizer slot {name!r} has shape {list(shape)}\n"
        f"  expected the parameter's shape {list(param.shape)}, or a scalar\n"
        "  nothing was switched; the source state is intact\n"
        "  hand such an optimizer's state over as extra= instead"
    )


@dataclass(frozen=True)
class How:
    """What memory a target gets.

    Attributes:
        device: where parameters and buffers live.
        for_peers: whether host memory of tensors of the map is such that other processes of the
            machine can read it.
        streamed: whether storages of tensors of the map are left empty, for a run to fill.
    """

    device: torch.device
    for_peers: bool = False
    streamed: bool = False


def materialize(
    target: LiveTensors, source: LiveTensors | None, adopted: Collection[str], how: How
) -> LiveTensors:
    """Puts memory behind every meta tensor of the target: adopted where named, else fresh zeros.

    Fresh memory is written once, so that its pages are there before a switch needs them; where it
    is streamed, storages of parameters and slots are empty instead.

    Args:
        target: a state built on meta, with its slots.
        source: the state that lends memory.
        adopted: names of local tensors to share; dense, equal in shape and dtype on both sides.
        how: what memory.

    Returns:
        The tensors of the target as they are now.
    """
    lent, device = {} if source is None else _lent(target, source, adopted), how.device
    derived.give_memory(target.state, device)
    _give_modules_memory(target.state, device)
    emptied: Emptied = {}
    groups = _place_missing(target, lent, how, emptied)
    for _, module in target.state.named_modules():
        refresh_fsdp_memory(module, emptied)
    for holder in target.holders:
        send_from(holder.optimizer, device)
    sharing.check_still_shared(groups, dict(target.live()))
    values_set_memory = leftovers.check_no_meta_left(target.state)
    if device.type == "cuda":
        # The switch comes after its caller's stream, which need not be the one that fills this.
        torch.cuda.current_stream(device).synchronize()
    placed_target = LiveTensors(
        target.state,
        device=device,
        objects=target.objects,
        built=target.built,
        apart=target.apart,
    )
    ties.give_copies(placed_target, lent)
    placed_target.values_set_memory = values_set_memory
    placed_target.emptied = emptied
    return placed_target


def check_placeable(target: LiveTensors) -> None:
    """Raises LayoutError when autograd holds a tensor that is to get memory."""
    for name, tensor in target.live():
        if local_tensor(tensor).is_meta:
            check_held(name, tensor)


def to_be_given(target: LiveTensors) -> set[int]:
    """Ids of the tensors of a target on meta that :func:`materialize` gives memory to."""
    tensors = [tensor for _, tensor in target.live()] + list(derived.tensors(target.state))
    tensors += (tensor for _, tensor in _of_modules(target.state))
    return {id(each) for tensor in tensors for each in (tensor, local_tensor(tensor))}


def _place_missing(
    target: LiveTensors, lent: Mapping[str, torch.Tensor], how: How, emptied: Emptied
) -> list[sharing.Group]:
    """Places what has no memory; returns what lies in one memory together.

    ``emptied`` takes every storage that is left empty.
    """
    missing, device = {n: t for n, t in target.live() if local_tensor(t).is_meta}, how.device
    blocks = Blocks(_needed_bytes(target, missing, lent)) if how.for_peers else None
    together: dict[str, torch.Tensor] = {}
    groups = sharing.groups(missing.items())
    for group in groups:
        if not sharing.lent_together(group, lent):
            padded = {name: target.padded.get(id(missing[name]), 0) for name in group}
            made = sharing.fresh_together(group, device, padded, blocks)
            together |= made
            if how.streamed:
                empty(next(iter(made.values())).untyped_storage(), emptied)
    check_placeable(target)
    placed: set[int] = set()
    for name, tensor in missing.items():
        if id(tensor) in placed:  # tied: one object under several names
            continue
        placed.add(id(tensor))
        local = together.get(name, lent.get(name))
        if local is None:
            room = target.padded.get(id(tensor), 0)
            on = _device_of(tensor, device)
            written = not how.streamed or _is_read_early(name, tensor)
            local = fresh(local_tensor(tensor), on, room, blocks, written=written)
        place(name, tensor, local)
        if how.streamed and name not in lent and not _is_read_early(name, tensor):
            empty(local.untyped_storage(), emptied)
    return groups


def _is_read_early(name: str, tensor: torch.Tensor) -> bool:
    """Whether code of the script may look at a tensor while values are tried against a target.

    Steps of optimizers, and buffers of modules that have state of their own; they are small.
    """
    return not tensor.dim() or name.endswith(f"|{BUFFER}")


def _needed_bytes(
    target: LiveTensors, missing: Mapping[str, torch.Tensor], lent: Mapping[str, torch.Tensor]
) -> int:
    """What blocks take for all that is not lent, tied tensors once."""
    each = {id(tensor): local_tensor(tensor) for n, tensor in missing.items() if n not in lent}
    rooms = target.padded
    spans = (max(span_bytes(local)[1], rooms.get(key, 0)) for key, local in each.items())
    return sum(map(aligned, spans))


def _give_modules_memory(state: TrainState, device: torch.device) -> None:
    """Memory for modules that belong to their rank: their state_dict says what they hold."""
    for name, tensor in _of_modules(state):
        place(name, tensor, fresh(local_tensor(tensor), device))


def _of_modules(state: TrainState) -> Iterator[tuple[str, torch.Tensor]]:
    for name, item in state.per_rank_objects():
        if isinstance(item, torch.nn.Module):
            for key, tensor in item.state_dict(keep_vars=True).items():
                if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                    yield f"{name}.{key}", tensor


def _device_of(tensor: torch.Tensor, device: torch.device) -> torch.device:
    return torch.device("cpu") if getattr(tensor, "dynatrain_on_host", False) else device


def lendable(
    target: LiveTensors,
    source: LiveTensors,
    adoptable: Collection[str],
    *,
    for_peers: bool = False,
) -> list[str]:
    """Those of ``adoptable`` that have room for the padding of the target's shards.

    Without it ``fully_shard`` would copy a shard away from what lies over it. With ``for_peers``,
    of host memory only what other processes can read. What is tied in the source and comes apart in
    the target is lent once: a step would else reach all of it through each.
    """
    goes_to: dict[sharing.Memory, sharing.Memory] = {}

    def lends(local: torch.Tensor, room_bytes: int) -> bool:
        is_far = for_peers and local.device.type == "cpu" and not can_be_read(local)
        return not is_far and _room_bytes(local) >= room_bytes

    def lends_once(name: str) -> bool:
        there, to = (sharing.memory_of(live.tensors[name]) for live in (source, target))
        return goes_to.setdefault(there, to) == to

    return [
        name
        for name in sorted(adoptable)
        if lends(local_tensor(source.tensors[name]), target.padded.get(id(target.tensors[name]), 0))
        and lends_once(name)
    ]


def _lent(
    target: LiveTensors, source: LiveTensors, adopted: Collection[str]
) -> dict[str, torch.Tensor]:
    return {
        name: local_tensor(source.tensors[name]).detach()
        for name in adopted
        if local_tensor(target.tensors[name]).is_meta
    }


def _room_bytes(local: torch.Tensor) -> int:
    """Bytes of the memory of a tensor from its first element on."""
    if local.layout is not torch.strided:
        return local.nbytes
    return local.untyped_storage().nbytes() - int(local.storage_offset()) * local.element_size()
