"""What a switch was called for: the first state of its story."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from dynatrain.generation.engine import Engine
from dynatrain.generation.seats import Seats
from dynatrain.generation.world import Build, World
from dynatrain.layout import Layout
from dynatrain.train_state import TrainState


@dataclass(frozen=True)
class Called:
    """A target that all ranks have called for.

    Attributes:
        source: who sits where in the source.
        seats: who sits where in the target.
        world: this rank's place in the target, None when it idles there.
        build: the user's build.
        names: new names of source tensors, by FQN.
        relabel_saved_bytes: what these seats leave unmoved that others in natural order would not.
    """

    source: Seats
    seats: Seats
    world: World | None
    build: Build
    names: Mapping[str, str] = field(default_factory=dict)
    relabel_saved_bytes: int = 0

    @property
    def layout(self) -> Layout:
        """The target."""
        return self.seats.layout

    def entered(self) -> AbstractContextManager[None]:
        """Has torch see the target's ranks: its meshes ask for this rank when they are read."""
        return nullcontext() if self.world is None else self.world.as_torch_sees_it()


def build_on_meta(engine: Engine, called: Called) -> TrainState | None:
    """What the user's build makes without memory for this rank's place; None where it idles."""
    world = called.world
    if world is None:
        return None
    with called.entered():
        return engine.adapter.build_on_meta(lambda: called.build(world), str(world))
