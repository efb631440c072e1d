"""What a rank is now: its place, its state, and what it keeps across switches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dynatrain._errors import InternalError, LayoutError
from dynatrain.adapters.port import Published
from dynatrain.generation.held import Held, Source
from dynatrain.generation.seats import Seats
from dynatrain.generation.world import World
from dynatrain.given import described
from dynatrain.layout import Layout
from dynatrain.train_state import Stateful, TrainState


@dataclass(frozen=True)
class Unused:
    """A state that a rank holds and nobody goes on with, and the world that it is of."""

    state: TrainState | None
    world: World | None


@dataclass
class Present:
    """What a rank is now: its place, its state, and what it keeps across switches.

    Attributes:
        seed: of random streams that are derived anew, as the session was given it.
        seats: who sits where now; None before the first world.
        world: this rank's place in it, None where it idles.
        state: what this rank trains, None where it idles.
        epoch: of the world; each switch that is decided counts it up.
        keep: kept objects by name, the script's own.
        undecided: empty, or why nobody knows whether this rank has its part in its last switch: it
            votes, could not learn the outcome, or could not install it. It may not train on then:
            the others may be in another world.
        held: what this rank holds of a state of which no live one is left; it is its source then.
        own_kept: states of kept objects that come with ``held``, by ``keep.name``, decoded.
        unused: what it has beside its source, until a switch is decided.
    """

    seed: int
    seats: Seats | None = None
    world: World | None = None
    state: TrainState | None = None
    epoch: int = 0
    keep: dict[str, Any] = field(default_factory=dict)
    undecided: str = ""
    held: Held | None = None
    own_kept: dict[str, Any] = field(default_factory=dict)
    unused: Unused | None = None

    @property
    def source(self) -> Source:
        """What this rank brings to a switch."""
        return self.state if self.held is None else self.held

    @property
    def layout(self) -> Layout | None:
        """The present layout; None before the first world."""
        return None if self.seats is None else self.seats.layout

    def check_decided(self) -> None:
        """Raises InternalError where this rank may not train on."""
        if self.undecided:
            raise InternalError(
                "session: nobody knows whether this rank has its part in the last switch: "
                f"{self.undecided}\n"
                "  expected every rank to learn how the vote ended, and to install its part\n"
                "  this rank may train in no world: others may be in the next one\n"
                "  end this process; a job that is not elastic starts from its last checkpoint"
            )

    def install(self, seats: Seats, world: World | None, state: TrainState | None) -> None:
        """Takes another place; ``world`` belongs to this epoch alone."""
        if world is not None:
            world.become_default()
        elif self.world is not None:
            self.world.cease_as_default()
        self.seats = seats
        self.state = state
        self.world = world

    def leave(self) -> None:
        """Lets go of a first world that was not decided on; nothing has trained in it."""
        if self.world is not None:
            self.world.cease_as_default()
            self.world.retire("an attempt that was given up had made")
        self.seats = self.world = self.state = None

    def close(self) -> None:
        """Ends the world; the state stays."""
        if self.world is not None:
            self.world.retire("session.close() ended")

    def kept_states(self, target: Seats) -> dict[str, Any]:
        """State of kept objects, for ranks that join; nobody asks for it otherwise."""
        assert self.seats is not None
        if self.world is None or not target.takes_in(self.seats):
            return {}
        return self.states_of_kept(per_rank=False)

    def states_of_kept(self, *, per_rank: bool) -> dict[str, Any]:
        """State of kept objects that belong to their rank, or of the others; by ``keep.name``."""
        return {
            f"keep.{name}": _asked_of(name, item)
            for name, item in self.keep.items()
            if isinstance(item, Stateful) and (getattr(item, "per_rank", None) is True) is per_rank
        }

    def move_kept(self, published: Published | None = None) -> dict[str, BaseException]:
        """Tells kept objects of the world; with what was published, they catch up first.

        Returns what they raised, by name: each is told, whatever another one does.
        """
        errors: dict[str, BaseException] = {}
        for name, item in self.keep.items():
            try:
                states = () if published is None else published.shared.get(f"keep.{name}", ())
                if states:
                    item.load_state_dict(states[0].value)
                elif f"keep.{name}" in self.own_kept:
                    item.load_state_dict(self.own_kept[f"keep.{name}"])
                if hasattr(item, "on_world"):
                    item.on_world(self.world)
            except BaseException as error:  # noqa: BLE001 - the user's code, after the vote
                errors[name] = error
        return errors


def _asked_of(name: str, item: Stateful) -> Any:
    try:
        return item.state_dict()
    except Exception as error:
        raise LayoutError(
            f"session: state_dict() of the kept object {name!r} raised {described(error)}\n"
            "  expected it to work: a rank that idled catches up by it\n"
            "  nothing was moved; the source state is intact\n"
            "  give it per_rank = True as an attribute if no rank needs to catch up"
        ) from error
