"""The port between a switch and a framework: what is asked of the framework's live state.

A switch knows states, tensors and values by what is written here alone. A framework's rules (what
its state holds, what can be given memory, what cannot travel and why) lie in its own folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

from dynatrain import _native
from dynatrain.adapters.handed import Part as Part
from dynatrain.adapters.handed import Published as Published
from dynatrain.adapters.handed import SlotNote as SlotNote
from dynatrain.adapters.handed import Slots as Slots
from dynatrain.adapters.handed import Storages as Storages
from dynatrain.adapters.handed import Values as Values
from dynatrain.adapters.steps import StepGuard as StepGuard
from dynatrain.adapters.steps import Watched as Watched
from dynatrain.train_state import TrainState


class Inventory(ABC):
    """The tensors of one rank's state, by logical name, as they were when it was read.

    A logical name is ``"<fqn>|<slot>"``, the same in every layout.

    Attributes:
        state: what was read.
        tied: names of what the state ties and a switch names apart, as the other side has copies
            of it, with the name that each is tied to.
    """

    state: TrainState
    tied: Mapping[str, str]

    @abstractmethod
    def table(self) -> _native.StateTable:
        """Descriptors and addresses of all tensors (address 0 where there is no memory yet).

        Raises:
            LayoutError: a tensor cannot be said as boxes of a logical tensor.
            DeviceError: a tensor lies where no lane of the session goes.
        """

    @abstractmethod
    def under(self, apart: Collection[str]) -> tuple[Inventory, list[tuple[str, str]]]:
        """What :meth:`Adapter.inventory` had read with these ``apart``, too; nothing is read anew.

        Returns:
            It, and each name that is new in it with the one that the tensor has here; the same
            object where there are none.
        """

    @abstractmethod
    def storages(self) -> Storages:
        """Where the tensors lie that have memory, or will have it (:meth:`Adapter.materialize`)."""

    @abstractmethod
    def host_names(self) -> set[str]:
        """Names of the tensors that lie in host memory."""

    @abstractmethod
    def slot_notes(self) -> frozenset[SlotNote]:
        """What a rank that makes the slots must know of them and no shard map says."""

    @abstractmethod
    def missing_bytes(self, adopted: Collection[str]) -> int:
        """Bytes of the tensors that have no memory yet, those named in ``adopted`` left out."""


_Inventory = TypeVar("_Inventory", bound=Inventory)


class Adapter(ABC, Generic[_Inventory]):
    """A framework's live state, as a switch sees it; one object for each session.

    The order of a switch: ``why_not_now``, ``check_trained``, ``inventory``, ``build_on_meta``,
    ``check_alike``, ``check_apart``, ``make_slots``, ``inventory`` of the target, ``materialize``;
    then, with all ranks stopped, ``values`` and ``encode``, ``decode``, ``check_values`` and
    ``check_left`` (``check_tied`` where the source is freed), the bytes move, ``take_values``; and
    after the vote ``retire`` and ``continue_streams``.

    Threads   the training thread, between two steps. What looks at inventories alone, or at
              values, may be called from another one that prepares a switch.
    Errors    of the library's family. Up to the vote a method that raises leaves the source, and
              what belongs to the process, as they were; the target is thrown away. After the vote
              no method may raise.
    Cost      a method may look at each of the rank's own tensors a few times, never at boxes or
              at other ranks. None runs a collective.
    """

    @abstractmethod
    def undisturbed(self) -> AbstractContextManager[None]:
        """Leaves what the caller has set for its thread, and puts it back.

        Such as modes of execution and defaults; inside, defaults are those of when this object was
        made. Every call of a session runs inside, the user's callbacks with it.
        """

    @abstractmethod
    def begin_anew(self) -> None:
        """The next two calls begin a session, as the first two of a new adapter do.

        The first makes its state, the second tells kept objects of it.
        """

    # ---- making a state ------------------------------------------------------------------------

    @abstractmethod
    def build(self, make: Callable[[], object]) -> TrainState:
        """Runs the user's build for real, on the session's device; raises what it raises.

        Raises:
            LayoutError: ``make`` returned something else than a TrainState.
        """

    @abstractmethod
    def build_on_meta(self, make: Callable[[], object], place: str) -> TrainState:
        """Runs the user's build without memory, communication and random draws.

        Args:
            make: the build, its world given.
            place: words for that world, for an error.

        Raises:
            LayoutError: ``make`` raised, did what it must not, or returned no TrainState.
        """

    @abstractmethod
    def ties(self, state: TrainState, names: Mapping[str, str] | None = None) -> frozenset[str]:
        """Further FQNs of parameters that this rank holds once under several.

        Where source and target tie other parameters, the inventories of both are to name them
        apart: the other side may hold them apart, as stages of a pipeline do.
        """

    @abstractmethod
    def inventory(
        self,
        state: TrainState,
        names: Mapping[str, str] | None = None,
        apart: Collection[str] = (),
    ) -> _Inventory:
        """Reads the tensors that ``state`` holds now; nothing is copied.

        Args:
            state: the state to read, built for real or on meta.
            names: new FQNs, by the FQN that ``state`` has, where they differ.
            apart: further FQNs of tied parameters under which they are named, too.

        Raises:
            LayoutError: tensors have no name, or two have one.
        """

    @abstractmethod
    def check_apart(self, built: TrainState, present: TrainState) -> None:
        """Holds what ``build`` returned against the present state, before either is written.

        Raises:
            LayoutError: they share what a switch writes into.
        """

    @abstractmethod
    def check_alike(self, source: _Inventory, slots: Slots) -> None:
        """Holds the present state of this rank against what the others noted of theirs.

        Raises:
            LayoutError: this rank keeps its tensors in another way than others do.
        """

    @abstractmethod
    def make_slots(self, state: TrainState, slots: Slots) -> None:
        """Gives a state built on meta the optimizer slots that the source has, without memory.

        Raises:
            LayoutError: a slot has no map from its parameter, or the source was noted to have what
                ``state`` is made without.
        """

    @abstractmethod
    def why_other_tensors(
        self, in_source: Collection[str], in_target: Collection[str]
    ) -> str | None:
        """The message of a refusal of tensors that one side alone has, by logical name.

        None where nothing is to be said but that the two are not the same model.
        """

    @abstractmethod
    def check_complete(self, target: _Inventory) -> None:
        """Says without taking memory whether :meth:`materialize` would leave something without.

        Raises:
            LayoutError: ``target.state`` reaches what has no memory and would get none, or memory
                cannot be put under what build made.
        """

    @abstractmethod
    def lendable(
        self, target: _Inventory, source: _Inventory, adoptable: Collection[str]
    ) -> Collection[str]:
        """Those of ``adoptable`` whose memory in ``source`` can serve ``target`` as it is."""

    @abstractmethod
    def materialize(
        self,
        target: _Inventory,
        source: _Inventory | None,
        adopted: Collection[str],
        *,
        streamed: bool = False,
    ) -> _Inventory:
        """Puts memory behind everything of ``target.state`` that has none, and reads it again.

        Memory is shared with ``source`` for the names in ``adopted``; other memory is fresh,
        zeroed, and written before this returns, so that its pages are there before a switch. Where
        it is ``streamed``, storages of tensors of the map are empty instead: the run gives them
        memory, by ``resize_`` to the size that :meth:`Inventory.storages` says.

        Raises:
            LayoutError: something that ``target.state`` reaches would be left without memory.
        """

    @abstractmethod
    def check_begun(self, state: TrainState) -> None:
        """Holds a first state against what the script's ``initialize`` was to fill.

        Raises:
            LayoutError: ``state`` reaches what has no memory.
        """

    @abstractmethod
    def untrained(self, inventory: _Inventory) -> str:
        """Which parameters train by no optimizer of the state, in words; empty for none."""

    @abstractmethod
    def left_behind(self, source: _Inventory, target: _Inventory | None) -> list[str]:
        """What a switch may lose that no map says, in words; ``target`` is None where idle."""

    # ---- what is no tensor of the map ----------------------------------------------------------

    @abstractmethod
    def shared_values(self, inventory: _Inventory) -> Mapping[str, Any]:
        """Reads what tells a state beside its tensors, as part of ``Values.shared``."""

    @abstractmethod
    def own_values(self, inventory: _Inventory) -> Mapping[str, Any]:
        """Reads what belongs to this rank's place, as ``Values.per_rank`` has it."""

    def values(self, inventory: _Inventory) -> Values:
        """What the next step depends on besides the tensors of ``inventory``.

        An adapter may hand over more than a state is told by, to be held against the target.
        """
        return Values(self.shared_values(inventory), self.own_values(inventory))

    @abstractmethod
    def encode(self, name: str, value: Any) -> bytes:
        """Bytes of a value; equal values should give equal bytes, wherever they lie.

        Raises:
            LayoutError: the value cannot be sent; the message says ``name``.
        """

    @abstractmethod
    def decode(self, blob: bytes) -> Any:
        """The value that ``encode`` was given, as an object of its own."""

    @abstractmethod
    def value_hashes(self, shared: Mapping[str, Any]) -> frozenset[int]:
        """A hash of each shared value and what it means, the same for it on every rank.

        Joined over all ranks they tell a state in every layout, as the sum of its elements does.
        """

    @abstractmethod
    def check_values(self, target: _Inventory | None, published: Published, rank: int) -> int:
        """Tries the target against what was published, before any byte moves.

        Whatever needs no byte of the map is put into the target; the source stays as it is.

        Args:
            target: the target of this rank, None where it idles there.
            published: what the source published.
            rank: this rank.

        Returns:
            Which of the published values the target takes, a bit for each.

        Raises:
            LayoutError: ranks contradict each other, or the target does not take the values.
        """

    @abstractmethod
    def check_left(self, published: Published, taken: int) -> None:
        """Raises LayoutError when no rank takes some value; ``taken`` has the bits of all ranks."""

    @abstractmethod
    def check_tied(self, differing: Collection[tuple[str, str]]) -> None:
        """Raises LayoutError for names that a target ties and whose contents differ in the source.

        What is retained is compared as it arrives, by :meth:`take_values`; this is asked before a
        source is freed.
        """

    @abstractmethod
    def take_values(self, target: _Inventory, published: Published) -> None:
        """Puts the rest into ``target.state``, whose tensors have arrived; may raise."""

    @abstractmethod
    def continue_streams(self, published: Published, seed: int, rank: int, step: int) -> list[str]:
        """Continues what belongs to the process and its place, such as random streams.

        What is equal on all source ranks is independent of the layout and goes on, unless it was
        derived for a place before, and only one had place in the source; anything else is derived
        anew from (seed, name, rank in the target, completed steps). The rank is the lowest of those
        that differ from this one in tp alone, unless ``published.told_apart`` has the name.

        Returns:
            The names of what was derived anew.
        """

    # ---- the boundary --------------------------------------------------------------------------

    @abstractmethod
    def why_not_now(self, state: TrainState | None) -> str | None:
        """The message of a refusal when ``state`` is not at a step boundary, else None.

        ``state`` is None on a rank that idles.
        """

    @abstractmethod
    def check_trained(self, state: TrainState) -> None:
        """Raises LayoutError where an optimizer beside ``state`` keeps something of it.

        Asked before a build can replace that optimizer.
        """

    @abstractmethod
    def watch(self, state: TrainState) -> Watched:
        """Watches the optimizers of ``state`` from now on; asked for once in the life of a state.

        A step of an optimizer pays an attribute for it, a step of the loop nothing. Nothing of it
        travels, nor counts as set by the script.
        """

    @abstractmethod
    def step_guard(self, state: TrainState, *, keeps_previous: bool) -> StepGuard:
        """A guard of the steps of ``state``; asked for once, perhaps able to take back one done."""

    @abstractmethod
    def retire(self, state: TrainState | None, target: _Inventory | None, successor: str) -> None:
        """Drops the memory of a replaced state and makes its later use raise StaleStateError.

        What ``target`` holds too lives on. ``state`` and ``target``, which stands in its place, are
        None where the rank idled or idles now; what the framework caches for a world is forgotten
        in any case. ``successor`` is the text form of the new layout.
        """
