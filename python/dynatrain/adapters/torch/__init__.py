"""The adapter of torch: modules, optimizers, DTensors and what lives beside them.

| file | holds |
|---|---|
| ``guard.py`` | runs ``build`` without memory, collectives and random draws |
| ``cures.py`` | what to do about errors of torch in ``build`` |
| ``wrappers.py`` | what wraps a model in a way that no build can |
| ``surroundings.py`` | modes and defaults of the calling thread, left and put back |
| ``names.py`` | logical names |
| ``inventory.py`` | live tensors by logical name |
| ``describing.py`` | what is said of one tensor; which tensors are no bytes in one memory |
| ``buffers.py`` | buffers that are no longer as build made them |
| ``memory.py`` | optimizer slots, and memory behind what was built on meta |
| ``placing.py`` | memory under tensor objects, which keep what they carry |
| ``blocks.py`` | host memory that ranks of one machine read in each other's processes |
| ``attributes.py`` | tensors that hang on a parameter, as slots |
| ``leftovers.py`` | what a state reaches that has no memory |
| ``ties.py`` | one parameter under several names, and its copies in another layout |
| ``sharing.py`` | several tensors over one memory |
| ``derived.py`` | attributes that torch's hooks compute from parameters |
| ``values.py`` | what is no tensor of the map: agreement of ranks, the trial of a target |
| ``groups.py`` | options of param groups by FQN |
| ``schedulers.py`` | what schedulers ask of the groups; containers with one for each part |
| ``objects.py`` | schedulers, scaler and extras: ``state_dict`` and back |
| ``identity.py`` | one object in several groups, or in the slots of several parameters |
| ``hooks.py`` | state behind ``get_extra_state`` |
| ``outside.py`` | hooks and ``requires_grad`` that a script sets outside of ``build`` |
| ``outsiders.py`` | what trains the parameters of a state and is no part of it |
| ``dropped.py`` | tensors that were set on modules as plain attributes |
| ``optimizers.py`` | optimizers, those inside of others too, and what they keep beside slots |
| ``zero.py`` | what is refused of an optimizer that divides its slots among replicas |
| ``slots.py`` | which tensors that optimizers and extras hold belong to the map |
| ``storages.py`` | the storages behind tensors, and those that are empty for a while |
| ``trees.py`` | tensors inside lists and dicts, taken out and put back |
| ``meaning.py`` | whether two values mean the same, and where they differ |
| ``codec.py`` | values as bytes |
| ``streams.py`` | random streams of the process |
| ``stepping.py`` | whether an optimizer has stepped |
| ``undoing.py`` | a step that failed for another rank, taken back |
| ``boundary.py`` | whether a state is between two steps; the end of a replaced one |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch

from dynatrain._torch_private.tensors import clear_sharding_cache, local_tensor
from dynatrain.adapters.port import Adapter, Published, Slots, StepGuard, Values, Watched
from dynatrain.adapters.torch import (
    boundary,
    buffers,
    codec,
    derived,
    dropped,
    guard,
    leftovers,
    memory,
    objects,
    outside,
    outsiders,
    sharing,
    stepping,
    streams,
    ties,
    values,
    wrappers,
)
from dynatrain.adapters.torch.inventory import Built, LiveTensors
from dynatrain.adapters.torch.surroundings import Surroundings
from dynatrain.adapters.torch.undoing import TorchStepGuard
from dynatrain.layout import Layout
from dynatrain.train_state import TrainState

#: Before the names of random streams: of any, and of those that a switch has seeded by place.
_STREAM, _PLACED = "stream.", "placed stream."


class TorchAdapter(Adapter[LiveTensors]):
    """The port for torch; see :class:`dynatrain.adapters.port.Adapter` for what each method does.

    Args:
        device: where parameters and buffers of this rank live, with its index.
        for_peers: whether host memory of targets is such that ranks of the machine can read it.
    """

    def __init__(self, device: torch.device, *, for_peers: bool = False) -> None:
        self._device = device
        self._for_peers = for_peers
        self._surroundings = Surroundings(device)
        #: States as they were built: steps and scripts change what no map says.
        self._built: WeakKeyDictionary[TrainState, Built] = WeakKeyDictionary()
        #: What else steps while the states train that the script was given.
        self._outsiders: WeakKeyDictionary[TrainState, outsiders.Outsiders] = WeakKeyDictionary()
        #: The state that the script gets from the present call.
        self._handing_over: TrainState | None = None
        #: A session begins with two calls: the second tells kept objects of the first world.
        self._num_calls_of_init = 2
        #: Random streams that a switch has seeded for the places of its target.
        self._placed: frozenset[str] = frozenset()

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Leaves inference mode, no_grad and autocast; default dtype and device are restored."""
        with self._surroundings.restored():
            try:
                yield
            finally:
                if self._num_calls_of_init:
                    self._num_calls_of_init -= 1
                    self._hand_over()

    def begin_anew(self) -> None:
        """See the port."""
        self._num_calls_of_init = 2

    def _hand_over(self) -> None:
        """Remembers the state that the script gets now, with what kept objects have set on it."""
        state = self._handing_over
        if state is not None and state in self._built:
            marks = outside.read(state)
            self._built[state] = replace(self._built[state], marks=marks, is_handed_over=True)
            if state not in self._outsiders:
                self._outsiders[state] = outsiders.Outsiders(state)
        if not self._num_calls_of_init:
            self._handing_over = None

    def build(self, make: Callable[[], object]) -> TrainState:
        """Runs the build under the session's device."""
        return self._noted(guard.build_for_real(make, self._device))

    def build_on_meta(self, make: Callable[[], object], place: str) -> TrainState:
        """Runs the build under the meta device and under watch."""
        return self._noted(guard.build_on_meta(make, place, self._device))

    def _noted(self, state: TrainState) -> TrainState:
        self._built.setdefault(state, Built(buffers.forms(state), outside.read(state)))
        return state

    def ties(self, state: TrainState, names: Mapping[str, str] | None = None) -> frozenset[str]:
        """All FQNs of a parameter but the first."""
        return frozenset(ties.further_names(state, names or {}))

    def inventory(
        self,
        state: TrainState,
        names: Mapping[str, str] | None = None,
        apart: Collection[str] = (),
    ) -> LiveTensors:
        """Walks modules and optimizers once."""
        wrappers.check_unwrapped(state)
        return LiveTensors(state, names, self._device, built=self._built.get(state), apart=apart)

    def check_apart(self, built: TrainState, present: TrainState) -> None:
        """Refuses the same state or an optimizer of it."""
        guard.check_apart(built, present)

    def check_alike(self, source: LiveTensors, slots: Slots) -> None:
        """Refuses memory that is shared on some ranks only."""
        sharing.check_alike(dict(source.live()), slots.notes)

    def make_slots(self, state: TrainState, slots: Slots) -> None:
        """Makes slots that are cut as their parameter, or scalars; buffers follow the source.

        What the script has set outside of build is held against the target here, ahead of a switch;
        at the switch itself :meth:`check_values` does so again.
        """
        outside.check(state, outside.of_notes(slots.notes))
        buffers.follow_changes(state, slots)
        memory.make_slots(state, slots)

    def why_other_tensors(
        self, in_source: Collection[str], in_target: Collection[str]
    ) -> str | None:
        """Names an object that holds plain tensors in one layout and DTensors in the other."""
        return objects.why_other_tensors(in_source, in_target)

    def check_complete(self, target: LiveTensors) -> None:
        """Looks for meta tensors that no map says and no value sets, or that autograd holds."""
        derived.end_graphs(target.state)
        memory.check_placeable(target)
        target.values_set_memory = leftovers.check_no_meta_left(
            target.state, memory.to_be_given(target)
        )

    def lendable(
        self, target: LiveTensors, source: LiveTensors, adoptable: Collection[str]
    ) -> Collection[str]:
        """Memory with room for what ``fully_shard`` pads."""
        return memory.lendable(target, source, adoptable, for_peers=self._for_peers)

    def materialize(
        self,
        target: LiveTensors,
        source: LiveTensors | None,
        adopted: Collection[str],
        *,
        streamed: bool = False,
    ) -> LiveTensors:
        """Puts memory under the objects that build made."""
        how = memory.How(self._device, for_peers=self._for_peers, streamed=streamed)
        return memory.materialize(target, source, adopted, how)

    def check_begun(self, state: TrainState) -> None:
        """Looks for meta tensors in extras, schedulers and scaler; the rest has memory by now."""
        leftovers.check_begun(state)

    def untrained(self, inventory: LiveTensors) -> str:
        """Names parameters that no optimizer of the state has."""
        alone = outsiders.without_optimizer(inventory)
        return f"{len(alone)} trainable parameters, {outsiders.named(alone)}" if alone else ""

    def left_behind(self, source: LiveTensors, target: LiveTensors | None) -> list[str]:
        """Names parameters without optimizer, and tensors set on modules as plain attributes."""
        alone = self.untrained(source)
        kept = "what an optimizer elsewhere keeps of them was not moved"
        gone = [] if target is None else dropped.dropped(source, target)
        said = f"no optimizer of the state has {alone}: {kept}" if alone else ""
        return [text for text in (said, dropped.in_words(gone)) if text]

    def shared_values(self, inventory: LiveTensors) -> dict[str, Any]:
        """Param groups, optimizer values and Stateful objects."""
        return values.read_shared(inventory)

    def values(self, inventory: LiveTensors) -> Values:
        """Beside a state's own values, what the script has set outside of ``build``."""
        found = super().values(inventory)
        return Values({**values.read_outside(inventory), **found.shared}, found.per_rank)

    def own_values(self, inventory: LiveTensors) -> dict[str, Any]:
        """Random streams, and objects that belong to their rank."""
        per_rank = {
            f"{_PLACED if name in self._placed else _STREAM}{name}": state
            for name, state in streams.read_streams(self._device).items()
        }
        return per_rank | objects.read_per_rank(inventory)

    def encode(self, name: str, value: Any) -> bytes:
        """Pickles, tensors in host memory by their elements."""
        return codec.encode(name, value)

    def decode(self, blob: bytes) -> Any:
        """Reads what ``encode`` made."""
        return codec.decode(blob, self._device)

    def value_hashes(self, shared: Mapping[str, Any]) -> frozenset[int]:
        """Options by FQN, values by key, Stateful objects by name; each by what it means."""
        return values.hashes(shared)

    def check_values(self, target: LiveTensors | None, published: Published, rank: int) -> int:
        """Loads options, values beside slots, and objects that hold no tensor of the map."""
        origins = values.check_agreement(published)
        if target is None:
            return 0
        values.check_shared(target, published, origins)
        if any(local_tensor(tensor).is_meta for tensor in target.tensors.values()):
            objects.try_waiting(target, published, self._device)
        objects.take_per_rank(target, published, rank)
        if target.values_set_memory:
            waiting = objects.waiting(target)
            leftovers.check_loaded(target.state, memory.to_be_given(target), waiting)
        taken = values.keys_taken(target, published)
        bits = (1 << n for n, key in enumerate(values.keys_of(published)) if key in taken)
        return sum(bits)

    def check_left(self, published: Published, taken: int) -> None:
        """Refuses state that no rank of the target takes."""
        keys = values.keys_of(published)
        if taken + 1 != 1 << len(keys):
            values.check_left([key for n, key in enumerate(keys) if not taken >> n & 1])

    def check_tied(self, differing: Collection[tuple[str, str]]) -> None:
        """See the port."""
        for first, name in differing:
            raise ties.differs(first, name)

    def take_values(self, target: LiveTensors, published: Published) -> None:
        """Puts nested slots together and loads objects that hold tensors of the map."""
        values.take_shared(target, published)
        derived.compute_again(target.state)
        ties.check_equal(target)
        if target.values_set_memory:
            leftovers.check_loaded(target.state)

    def continue_streams(self, published: Published, seed: int, rank: int, step: int) -> list[str]:
        """Puts or seeds every random stream of the process.

        Kept objects have been told of the world by now: what they have set belongs to it.
        """
        self._hand_over()
        assert published.source is not None
        assert published.target is not None
        one_place = _num_places(published.source) == 1
        spreads = one_place and _num_places(published.target) > 1
        placed, states, places = set(), {}, {}
        first = published.target.group(rank, "tp")[0]
        for name, parts in published.per_rank.items():
            if name.startswith((_STREAM, _PLACED)):
                stream = name.removeprefix(_PLACED).removeprefix(_STREAM)
                states[stream] = [part.value for part in parts]
                places[stream] = rank if name in published.told_apart else first
                if name.startswith(_PLACED):
                    placed.add(stream)
                    states[stream] += [None] * spreads  # as if each place had had its own
        anew = streams.continue_streams(self._device, states, seed, places, step)
        # Where several places had the same one, somebody has made it independent of them.
        self._placed = frozenset(anew) | frozenset(placed if one_place else ())
        return anew

    def why_not_now(self, state: TrainState | None) -> str | None:
        """Asks for backward, gradients, and parameters that ``fully_shard`` has gathered."""
        return boundary.why_not_now(state)

    def check_trained(self, state: TrainState) -> None:
        """Refuses optimizers that are not in the state and keep something of its parameters."""
        seen = self._outsiders.get(state)
        if seen is not None:
            seen.check(state)

    def watch(self, state: TrainState) -> Watched:
        """Registers hooks behind the steps of all optimizers."""
        return stepping.watch(state)

    def step_guard(self, state: TrainState, *, keeps_previous: bool) -> StepGuard:
        """Copies the buffers that steps write, and reads the random streams."""
        return TorchStepGuard(state, self._device, keeps_previous=keeps_previous)

    def retire(self, state: TrainState | None, target: LiveTensors | None, successor: str) -> None:
        """Empties storages, hooks refusals in, and forgets DTensor's cache of meshes."""
        if state is not None:
            boundary.retire(state, target, successor)
            if state in self._built:
                self._built[state].described.forget()
        built = None if target is None else self._built.get(target.state)
        if target is not None and built is not None and not built.is_handed_over:
            self._handing_over = target.state
        clear_sharding_cache()


def _num_places(layout: Layout) -> int:
    """Places that have random streams of their own: ranks that differ in tp alone share one."""
    return layout.world_size // layout.size("tp")
