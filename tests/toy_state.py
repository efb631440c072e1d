"""A training state of a few arrays, and an adapter for it: no framework, no process-wide state.

The weight is cut in rows by dp and in columns by tp, the bias is whole on every rank, and the
number of steps is a value beside them.
"""

from __future__ import annotations

import copy
import hashlib
from contextlib import nullcontext

import numpy as np

from dynatrain import _native, words
from dynatrain.adapters.port import Adapter, Inventory, Storages, Watched

ROWS, COLUMNS = 16, 12
_ITEMSIZE = 4


def cut(layout, rank):
    """Begin and end of the weight's box on a rank."""
    dp, tp = layout.size("dp_shard"), layout.size("tp")
    row, column = layout.coordinate(rank, "dp_shard"), layout.coordinate(rank, "tp")
    height, width = ROWS // dp, COLUMNS // tp
    begin = [row * height, column * width]
    return begin, [begin[0] + height, begin[1] + width]


class Place:
    """One rank's place in a layout, without meshes or groups."""

    def __init__(self, layout, rank, epoch=0):
        self.layout, self.rank, self.epoch = layout, rank, epoch
        self.world_size = layout.world_size
        self.ended = ""

    def at_epoch(self, epoch):
        return Place(self.layout, self.rank, epoch)

    def as_torch_sees_it(self):
        return nullcontext()

    def become_default(self):
        """Torch has no part in it."""

    def cease_as_default(self):
        """Torch has no part in it."""

    def retire(self, ended):
        self.ended = ended


class Places:
    """In place of ``Worlds``: a DeviceMesh needs the groups of a job, and there is none."""

    def __init__(self, engine):
        self._engine = engine
        self._known = set()

    def over(self, engine):
        same = copy.copy(self)
        same._engine = engine
        return same

    @property
    def kept(self):
        return tuple(sorted(self._known))

    def at(self, seats, epoch, name, *, kept, in_use=()):
        if not kept:  # the exchange in which ranks tell each other whether they have a place
            self._engine.control.agree("making the world", None, 0, min)
        self._known.add(seats.key)
        rank = seats.place_of(self._engine.generation.members.own.id)
        return None if rank is None else Place(seats.layout, rank, epoch)

    def end(self):
        self._known.clear()


class Toy:
    """The state of one rank; ``arrays`` is None for one that has no memory yet."""

    def __init__(self, place):
        self.layout, self.rank = place.layout, place.rank
        self.arrays = None
        self.steps = 0
        self.replaced_by = ""

    def boxes(self):
        begin, end = cut(self.layout, self.rank)
        return {"weight|param": (begin, end, [ROWS, COLUMNS]), "bias|param": ([0], [COLUMNS], None)}

    def shape(self, name):
        begin, end, _ = self.boxes()[name]
        return [e - b for b, e in zip(begin, end, strict=True)]

    def give_memory(self):
        self.arrays = {name: np.zeros(self.shape(name), np.float32) for name in self.boxes()}


class ToyStorage:
    """An array as a storage, which has its memory always."""

    def __init__(self, array):
        self._array = array

    def resize_(self, size_bytes):
        """It is never freed."""
        assert size_bytes == self._array.nbytes

    def data_ptr(self):
        return self._array.ctypes.data


class ToyInventory(Inventory):
    def __init__(self, state):
        self.state = state
        self.tied = {}

    def table(self):
        table = _native.StateTable()
        for name, (begin, end, shape) in self.state.boxes().items():
            extents = self.state.shape(name)
            arrays = self.state.arrays
            address = 0 if arrays is None else arrays[name].ctypes.data
            if shape is None:
                table.add_whole(name, extents, "float32", _ITEMSIZE, address, [1])
                continue
            fragment = (begin, end, 0, [extents[1], 1])
            nbytes = extents[0] * extents[1] * _ITEMSIZE
            table.add_fragments(name, shape, "float32", _ITEMSIZE, [fragment], address, nbytes)
        return table

    def under(self, apart):
        return self, []

    def storages(self):
        arrays = self.state.arrays or {}
        return Storages(
            [ToyStorage(each) for each in arrays.values()],
            [id(each) for each in arrays.values()],
            [each.nbytes for each in arrays.values()],
            {name: (number, 0) for number, name in enumerate(arrays)},
            frozenset(range(len(arrays))),
        )

    def host_names(self):
        return set(self.state.boxes())

    def slot_notes(self):
        return frozenset()

    def missing_bytes(self, adopted):
        if self.state.arrays is not None:
            return 0
        names = self.state.boxes().keys() - set(adopted)
        return sum(int(np.prod(self.state.shape(name))) * _ITEMSIZE for name in names)


class ToyAdapter(Adapter):
    """What a switch asks of toys.

    Args:
        fill: gives the arrays of a first state what they hold.
    """

    def __init__(self, fill):
        self._fill = fill

    def begin_anew(self):
        """Nothing is told apart by it."""

    def undisturbed(self):
        return nullcontext()

    def build(self, make):
        state = make()
        state.give_memory()
        self._fill(state)
        return state

    def build_on_meta(self, make, place):
        return make()

    def ties(self, state, names=None):
        return frozenset()

    def inventory(self, state, names=None, apart=()):
        return ToyInventory(state)

    def check_apart(self, built, present):
        assert built is not present

    def check_alike(self, source, slots):
        pass

    def make_slots(self, state, slots):
        pass

    def why_other_tensors(self, in_source, in_target):
        return None

    def check_complete(self, target):
        pass

    def lendable(self, target, source, adoptable):
        return ()

    def materialize(self, target, source, adopted, *, streamed=False):
        target.state.give_memory()
        return target

    def check_begun(self, state):
        pass

    def untrained(self, inventory):
        return ""

    def left_behind(self, source, target):
        return []

    def shared_values(self, inventory):
        return {"steps": inventory.state.steps}

    def own_values(self, inventory):
        return {}

    def encode(self, name, value):
        return words.encode(value)

    def decode(self, blob):
        return words.decode(blob)

    def value_hashes(self, shared):
        said = [words.encode(item) for item in sorted(shared.items())]
        return frozenset(
            int.from_bytes(hashlib.sha256(each).digest()[:8], "little") for each in said
        )

    def check_values(self, target, published, rank):
        return 1

    def check_left(self, published, taken):
        assert taken == 1

    def check_tied(self, differing):
        assert not differing

    def take_values(self, target, published):
        target.state.steps = published.shared["steps"][0].value

    def continue_streams(self, published, seed, rank, step):
        return []

    def why_not_now(self, state):
        return None

    def check_trained(self, state):
        pass

    def watch(self, state):
        return Watched(sure=False)

    def step_guard(self, state, *, keeps_previous):
        raise AssertionError("no job of these tests loses members")

    def retire(self, state, target, successor):
        if state is not None:
            state.replaced_by, state.arrays = successor, None
