"""Live tensors of a model and its optimizers, by logical name, and their descriptors.

A logical name is ``"<fqn>|<slot>"``; the slot is ``param``, ``buffer`` or the optimizer's own word
(``exp_avg``, ``step``, ``momentum_buffer``). FQNs follow torch's checkpoint rules.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dynatrain import _native
from dynatrain._errors import LayoutError
from dynatrain._torch_private.tensors import local_tensor, padded_bytes
from dynatrain.adapters.port import Inventory, SlotNote, Storages
from dynatrain.adapters.torch import attributes, buffers, outside, sharing, slots, trees
from dynatrain.adapters.torch.describing import Described, check_device, describe, facts
from dynatrain.adapters.torch.names import BUFFER, PARAM, check_slot, clean_fqn, unwrapped
from dynatrain.adapters.torch.optimizers import Holder, Role, asked, holders
from dynatrain.adapters.torch.slots import ON_HOST
from dynatrain.adapters.torch.storages import Emptied, storages_of, without_memory
from dynatrain.train_state import Stateful, TrainState

#: First word of the note that an optimizer of a role holds a slot.
HELD = "held"
#: A tree that was read, and the names of the tensors in it that belong to the map.
Tree = tuple[Any, dict[trees.Path, str]]


@dataclass(frozen=True)
class Built:
    """What is remembered of a state since it was built.

    Attributes:
        forms: the form that each buffer had.
        marks: hooks and ``requires_grad`` as the script was given them.
        is_handed_over: whether the script has it by now.
        described: its tensors as they were described last.
    """

    forms: Mapping[str, buffers.Form]
    marks: outside.Found
    is_handed_over: bool = False
    described: Described = field(default_factory=Described)


class LiveTensors(Inventory):
    """The tensors of one rank's state by logical name, and the FQN of every parameter.

    Args:
        state: the state to read; nothing is copied.
        names: new names of tensors, by the FQN that ``state`` has (see ``dynatrain.init``).
        device: where tensors must lie that do not lie on the host; None for anywhere.
        objects: what the Stateful objects of ``state`` have handed over already, by name.
        built: what is remembered of how ``state`` was built; None where nobody knows.
        apart: further FQNs of tied parameters under which they are named, too.

    Raises:
        LayoutError: two tensors share a name, or an optimizer holds a parameter that the model
            lacks.
    """

    def __init__(  # noqa: PLR0913 - what is known of a state beside itself
        self,
        state: TrainState,
        names: Mapping[str, str] | None = None,
        device: torch.device | None = None,
        objects: Mapping[str, Tree] | None = None,
        built: Built | None = None,
        apart: Collection[str] = (),
    ) -> None:
        self.state = state
        self.built = built
        self._device = device
        self._names = dict(names or {})
        self.tensors: dict[str, torch.Tensor] = {}
        self.fqn_of: dict[int, str] = {}
        self._notes: set[SlotNote] = set()
        #: What optimizers keep and parameters carry, without scalars, by slot and name.
        self._carried: dict[str, dict[str, torch.Tensor]] = {}
        #: The same beside their parameters, by every FQN: FQN, slot, parameter, tensor.
        self._beside: list[tuple[str, str, torch.Tensor, torch.Tensor]] = []
        self.values: dict[tuple[Role, str], object] = {}
        #: The objects of the state that stand behind tensors made here, by name.
        self.behind: dict[str, torch.Tensor] = {}
        self.values_set_memory = False  #: something has no memory before values are loaded
        self.emptied: Emptied = {}  #: storages that a run is to fill
        self.apart = frozenset(apart)
        #: Names of tied tensors that are named apart, with the name that they are tied to.
        self.tied: dict[str, str] = {}
        self._further: dict[int, list[str]] = {}
        #: Parameters by every FQN that they have, the first one first.
        self._by_fqn: dict[str, torch.Tensor] = {}
        #: Bytes that ``fully_shard`` reads of a parameter's shard, padding included, by its id.
        self.padded: dict[int, int] = {}
        self.holders = holders(state)
        for prefix, module in state.named_modules():
            self._add_module(module, prefix)
        for holder in self.holders:
            self._add_optimizer(holder)
        self.objects: dict[str, Tree] = dict(objects or {})
        for name, item in state.shared_objects():
            self._add_object(name, item)
        self._add_attributes()
        if self._device is not None and self._device.type != "cpu":
            for slot, tensors in self._carried.items():
                self._notes |= slots.host_notes(slot, tensors)

    def fqn(self, param: torch.Tensor) -> str:
        """FQN of a parameter; raises LayoutError when the model has no such parameter."""
        fqn = self.fqn_of.get(id(param))
        if fqn is None:
            raise LayoutError(
                f"adapters: an optimizer holds a parameter of shape {tuple(param.shape)} "
                "that the model does not have\n"
                "  expected only parameters of TrainState.model\n"
                "  nothing was switched; the source state is intact\n"
                "  make the optimizer after fully_shard() and parallelize_module(), which replace "
                "parameters, and pass every module whose parameters are optimized as "
                "TrainState(model=[...])"
            )
        return fqn

    def fqns(self, param: torch.Tensor) -> list[str]:
        """All FQNs under which a parameter is named, the first one first."""
        first, further = self.fqn(param), self._further.get(id(param))
        return [first] if further is None else [first, *further]

    def _add_module(self, module: nn.Module, prefix: str) -> None:
        self.padded |= padded_bytes(module)
        prefix_free = unwrapped(module)
        for name, param in prefix_free.named_parameters(remove_duplicate=False):
            fqn = self.named(prefix + name)
            first = self.fqn_of.setdefault(id(param), fqn)
            self._by_fqn[fqn] = param
            if first != fqn:
                if fqn not in self.apart:
                    continue
                self._further.setdefault(id(param), []).append(fqn)
            self._add_under([first, fqn], PARAM, param)
        # A buffer that blocks share has every name: the first one differs between stages.
        for name, buffer in prefix_free.named_buffers(remove_duplicate=False):
            self._add(f"{self.named(prefix + name)}|{BUFFER}", buffer)

    def _add_optimizer(self, holder: Holder) -> None:
        entries: dict[Any, Any] = holder.keeper.state
        for param, held in entries.items():
            if not isinstance(param, torch.Tensor):
                continue
            fqns = self.fqns(param)
            mapped, values = slots.told_apart(fqns[0], param, held)
            for slot, tensor in mapped.items():
                check_slot(fqns[0], slot)
                self._add_under(fqns, slot, tensor)
                self._beside += [(each, slot, param, tensor) for each in fqns]
                self._notes.add((HELD, holder.role, slot))
                if not tensor.dim() and tensor.device.type == "cpu":
                    self._notes.add((ON_HOST, slot))
            if values:
                self.values |= dict.fromkeys(((holder.role, fqn) for fqn in fqns), values)

    def _add_attributes(self) -> None:
        known = {id(tensor) for tensor in self.tensors.values()}
        for fqn, param in self.params().items():
            for slot, value in attributes.tensors_on(param):
                mapped = None if id(value) in known else attributes.as_mapped(param, value)
                if mapped is not None:
                    fqns = self.fqns(param)
                    self._beside += [(each, slot, param, value) for each in fqns]
                    self._add_under(fqns, slot, mapped)
                    self.behind |= dict.fromkeys((f"{each}|{slot}" for each in fqns), value)
                elif id(value) not in known:
                    content = attributes.content_of(value)
                    self._notes.add((attributes.UNMAPPED, fqn, slot, content))
        self._notes |= attributes.kinds(self._beside)

    def live(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every name with the object of the state that stands behind it."""
        return ((name, self.behind.get(name, mapped)) for name, mapped in self.tensors.items())

    def _add_object(self, name: str, item: Stateful) -> None:
        if name not in self.objects:
            tree = self._handed_over(name, item)
            names = slots.names_in(name, tree, self._by_fqn, self.named)
            self.objects[name] = tree, names
        tree, names = self.objects[name]
        found = [(path, names[path], each) for path, each in trees.leaves(tree) if path in names]
        for _, own, tensor in found:
            self._add(own, tensor)
        for path, own, tensor in found:
            for other in self._copies(name, path):
                if other not in self.tensors:
                    self._add(other, tensor)
                    self.tied[other] = own
        if self._device is not None and self._device.type != "cpu":
            names_here = {own for _, own, _ in found}
            self._notes |= slots.host_notes(name, {n: self.tensors[n] for n in names_here})

    def _copies(self, extra: str, path: trees.Path) -> Iterator[str]:
        """Names for what an object holds of a tied parameter that is named apart."""
        key = self.named(path[-1]) if isinstance(path[-1], str) else ""
        param = self._by_fqn.get(key)
        if param is not None and self.fqn(param) == key:
            for fqn in self._further.get(id(param), ()):
                yield slots.name_at(extra, path, fqn, slots.digest_of(self._by_fqn))

    def _handed_over(self, name: str, item: Stateful) -> Any:
        try:
            return asked(name, "state_dict()", item.state_dict)
        except LayoutError:
            if not any(local_tensor(tensor).is_meta for tensor in self.tensors.values()):
                raise
            return None  # built on meta, where no number can be read: it takes what is loaded

    def params(self) -> dict[str, torch.Tensor]:
        """The parameters by FQN, tied ones by their first."""
        ending = f"|{PARAM}"
        return {
            name.removesuffix(ending): tensor
            for name, tensor in self.tensors.items()
            if name.endswith(ending) and name not in self.tied
        }

    def named(self, name: str) -> str:
        """The logical name of a parameter, or of a module when ``name`` ends with a dot."""
        fqn = clean_fqn(name).removesuffix(".")
        return self._names.get(fqn, fqn)

    def _add_under(self, fqns: Sequence[str], slot: str, tensor: torch.Tensor) -> None:
        if slot != PARAM and tensor.dim():
            self._carried.setdefault(slot, {})[f"{fqns[0]}|{slot}"] = tensor
        for fqn in fqns:
            self._add(f"{fqn}|{slot}", tensor)
            if fqn != fqns[0]:
                self.tied[f"{fqn}|{slot}"] = f"{fqns[0]}|{slot}"

    def _add(self, name: str, tensor: torch.Tensor) -> None:
        if self.tensors.get(name) is tensor:
            return  # tied within this rank: the modules of two stages hold one parameter
        if name in self.tensors:
            raise LayoutError(
                f"adapters: two live tensors are named {name!r} on this rank{self._renamed(name)}\n"
                "  expected FQNs that are unique across the pipeline stages of one rank\n"
                "  nothing was switched; the source state is intact\n"
                f"  {self._apart(name)}"
            )
        self.tensors[name] = tensor

    def _renamed(self, name: str) -> str:
        fqn = name.rpartition("|")[0]
        by = sorted(old for old, new in self._names.items() if new == fqn)
        return f", by names= of {by}" if by else ""

    def _apart(self, name: str) -> str:
        """What to do about two tensors of one name."""
        objects = (own for own, _ in self.state.stateful_objects())
        found = next((own for own in objects if name.startswith((f"{own}.", f"{own}|"))), None)
        if found is None:
            return "rename one of them, or tie them to one parameter"
        return (
            f"rename the model's attribute {found!r}: what TrainState holds under "
            f"{found.partition('.')[0]}= is named so"
        )

    def under(self, apart: Collection[str]) -> tuple[LiveTensors, list[tuple[str, str]]]:
        """The same object where nothing is tied by ``apart`` alone."""
        every, more = self.apart | frozenset(apart), frozenset(apart) - self.apart
        further: dict[int, list[str]] = {}
        firsts: dict[str, list[str]] = {}
        for fqn, param in self._by_fqn.items():
            first = self.fqn_of[id(param)]
            if fqn != first and fqn in every:
                further.setdefault(id(param), []).append(fqn)
                if fqn in more:
                    firsts.setdefault(first, []).append(fqn)
        if not firsts:
            return self, []
        wider = copy(self)
        wider.apart, wider._further = every, further
        pairs = [*wider._copies_of_slots(firsts), *wider._copies_of_objects()]
        wider.tensors = self.tensors | {name: self.tensors[of] for name, of in pairs}
        wider.tied = self.tied | dict(pairs)
        wider.values = self.values | {
            (role, other): held
            for (role, fqn), held in self.values.items()
            for other in firsts.get(fqn, ())
        }
        return wider, pairs

    def _copies_of_slots(self, firsts: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
        for name in self.tensors:
            first, _, slot = name.rpartition("|")
            for fqn in firsts.get(first, ()):
                yield f"{fqn}|{slot}", name

    def _copies_of_objects(self) -> Iterator[tuple[str, str]]:
        for name, (_, names) in self.objects.items():
            for path, own in names.items():
                copies = self._copies(name, path)
                yield from ((each, own) for each in copies if each not in self.tensors)

    def storages(self) -> Storages:
        """Of all but tensors on meta."""
        return storages_of(self.tensors, self.emptied)

    def host_names(self) -> set[str]:
        """Names of the tensors that lie in host memory."""
        return {
            n for n, tensor in self.tensors.items() if local_tensor(tensor).device.type == "cpu"
        }

    def slot_notes(self) -> frozenset[SlotNote]:
        """Which slots optimizers hold, what lives on the host, and buffers that changed."""
        forms = {} if self.built is None else self.built.forms
        changed = buffers.changes(self.state, forms)
        return frozenset(
            self._notes
            | sharing.notes(self.live(), self.tied)
            | {(buffers.CHANGED, self.named(fqn), form) for fqn, form in changed}
            | outside.notes(self.set_outside())
        )

    def set_outside(self) -> outside.Found:
        """Hooks and ``requires_grad`` that the script has changed, as they are at this moment."""
        if self.built is None:
            return {}
        return outside.changes(self.state, self.built.marks, self.named)

    def missing_bytes(self, adopted: Collection[str]) -> int:
        """Bytes of the meta tensors, tied ones once, those named in ``adopted`` left out."""
        kept = frozenset(adopted)
        fresh = {
            id(tensor): max(local_tensor(tensor).nbytes, self.padded.get(id(tensor), 0))
            for name, tensor in self.tensors.items()
            if name not in kept and local_tensor(tensor).is_meta
        }
        copies = (local_tensor(self.tensors[name]) for name in self.tied if name not in kept)
        return sum(fresh.values()) + sum(local.nbytes for local in copies if local.is_meta)

    def table(self) -> _native.StateTable:
        """Descriptors and addresses of all tensors (address 0 for meta tensors).

        One table for all readings of a state that find the same.

        Raises:
            LayoutError: a placement or the strides of a shard cannot be said.
            DeviceError: a tensor is neither on the host nor on the device that was given.
        """
        if self.built is None:
            return self._table()
        names, found = list(self.tensors), [facts(tensor) for tensor in self.tensors.values()]
        described = self.built.described
        table = described.again(names, found)
        if table is None:
            described.forget()
            table = self._table()
            described.names, described.known, described.table = names, found, table
        return table

    def _table(self) -> _native.StateTable:
        table = _native.StateTable()
        meshes: dict[int, int] = {}
        for name, tensor in self.tensors.items():
            local = without_memory(local_tensor(tensor), self.emptied)
            if self._device is not None:
                check_device(name, local.device, self._device)
            describe(table, meshes, name, tensor, local)
        return table


def slots_by_fqn(source: _native.ShardMap) -> dict[str, list[str]]:
    """Optimizer slots of each parameter that exist anywhere in the source."""
    found: dict[str, list[str]] = {}
    for name in source.names():
        fqn, slot = name.rsplit("|", 1)
        if slot not in (PARAM, BUFFER):
            found.setdefault(fqn, []).append(slot)
    return found


def scalar_slots(source: _native.ShardMap) -> frozenset[str]:
    """Slots that are scalars beside parameters that have dimensions, and torch's own ``step``."""
    shapes = {name: source.info(name)[0] for name in source.names()}
    return frozenset(["step"]) | {
        name.rsplit("|", 1)[1]
        for name, shape in shapes.items()
        if not shape and shapes.get(f"{name.rsplit('|', 1)[0]}|{PARAM}")
    }


def iter_optimizer_params(live: LiveTensors) -> Iterator[tuple[Holder, nn.Parameter]]:
    """Every parameter with each optimizer that has it in a group and keeps its slots here."""
    for holder in live.holders:
        for param in holder.kept_params():
            yield holder, param
