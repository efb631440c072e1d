"""A session whose members come and go: what the elastic driver asks of it, done with its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dynatrain._errors import LayoutError, LostStateError, TransportError
from dynatrain.collective import Collective
from dynatrain.elastic.missing import Brings, Recovery, read_missing, seats_in
from dynatrain.elastic.snapshots import Snapshots
from dynatrain.generation.engine import AtBoundary
from dynatrain.generation.generation import Generation
from dynatrain.generation.held import Held
from dynatrain.generation.seats import Seats
from dynatrain.generation.world import World
from dynatrain.layout import Layout
from dynatrain.report import SwitchReport
from dynatrain.switch.beginning import Initialize
from dynatrain.switch.decided import Vote
from dynatrain.switch.preparations import Wanted
from dynatrain.switch.present import Unused
from dynatrain.switch.standing import Standing
from dynatrain.train_state import TrainState


@dataclass(frozen=True)
class _Stood:
    """What a rank was when its world was halted."""

    seats: Seats | None
    world: World | None
    state: TrainState | None
    epoch: int
    completed: int
    reached: int  #: steps that it had completed, before it went back; 0 where it had no place


class Joining:
    """The port of a driver, over the calls of one rank; see ``elastic.driven.Session``.

    Args:
        part: the calls of all ranks.
        initialize: fills the first state, or None.
        keep: the kept objects.
        callbacks: of the script, told of switches that are done.
        snapshots: of this member; None where it makes none.

    Attributes:
        steps_lost: by the last switch, a recovery from a snapshot or an earlier version: so many
            are done once more.
    """

    def __init__(
        self,
        part: Collective,
        initialize: Initialize | None,
        keep: Mapping[str, Any],
        callbacks: Sequence[Callable[[SwitchReport], None]],
        snapshots: Snapshots | None,
    ) -> None:
        self.steps_lost = 0
        self._snapshots = snapshots
        self._part = part
        self._initialize = initialize
        self._keep = keep
        self._callbacks = callbacks
        self._stood: _Stood | None = None  #: while a recovery is tried
        self._reached = 0  #: steps that it had completed before recoveries that have lost the state

    def vote_by(self, vote: Vote) -> None:
        """Has every switch be decided by ``vote``."""
        self._part.vote = vote

    @property
    def completed(self) -> int:
        """Completed steps."""
        return self._part.progress.completed

    @property
    def is_whole(self) -> bool:
        """Whether the state is that of so many steps; not where one was cut short in the middle."""
        return not self._part.progress.is_torn

    @property
    def previous(self) -> list[int]:
        """Earlier versions that can be gone back to."""
        version = self._part.keeper.previous
        found = [] if version is None else [version]
        if self._snapshots is not None:
            found += self._snapshots.versions + self._snapshots.on_disk
        return [*dict.fromkeys(found)]

    def begin(self, generation: Generation, layout: Layout, epoch: int) -> None:
        """Builds the first world and state, and votes; collective over the generation.

        What a kept object raises is raised behind the vote: the world has begun on all members.
        """
        self._part.regroup(generation)
        self._part.present.epoch = epoch
        folder = None if self._snapshots is None else self._snapshots.checkpoints
        if folder is not None:
            self._part.engine.together("the first layout", folder.check_unused)
        self._begun(
            lambda: self._part.start(layout, self._initialize, self._keep),
            lambda: self._part.vote.cast(str(layout), epoch - 1),
        )

    def stand_by(self, generation: Generation, seats: Seats, epoch: int, step: int) -> None:
        """Takes note of the world of others, in which this rank has no place."""
        self._part.regroup(generation)
        self._part.progress.completed = step
        if self._part.present.seats is None:
            self._begun(lambda: self._part.stand_by(seats, epoch, self._keep))
        else:
            self._part.stand_by(seats, epoch, self._keep)

    def _begun(self, begin: Callable[[], None], decide: Callable[[], None] | None = None) -> None:
        """What ``init`` does around the first state of a session."""
        adapter, present = self._part.adapter, self._part.present
        adapter.begin_anew()
        with adapter.undisturbed():
            begin()
        if decide is not None:
            decide()
        with adapter.undisturbed():
            errors = present.move_kept()
        for error in errors.values():
            raise error

    def enter(self, generation: Generation) -> None:
        """Makes the next calls among the members of a generation."""
        self._part.regroup(generation)

    def prepare_ahead(
        self, generation: Generation, source: tuple[Seats, int], layout: Layout, run: AtBoundary
    ) -> Standing:
        """Prepares a switch over a generation that is to come; in a thread, collective over it.

        ``source`` is who trains now, and the epoch of that.
        """
        seats, epoch = source
        num_ranks = generation.members.num_ranks
        wanted = Wanted(
            layout,
            seats,
            epoch,
            check=lambda: self._part.check_now(layout, self._keep, num_ranks),
        )
        return self._part.prepare_ahead(generation, wanted, run)

    def adopt(self, standing: Standing) -> None:
        """Has the next switch take what was prepared ahead over the present generation."""
        self._part.targets.adopt(standing)

    def go(self, layout: Layout) -> SwitchReport:
        """Switches; collective over the generation."""
        epoch = self._part.present.epoch
        try:
            report = self._part.switch(layout, None, self._callbacks)
        except LostStateError:
            self._is_decided(is_torn=True)
            raise
        finally:
            if self._part.present.epoch != epoch:  # also where the script's own code has raised
                self._let_go_of_held()
        reached = self._is_decided(is_torn=False)
        self.steps_lost = max(reached - self._part.progress.completed, 0)
        self._reached = 0
        return report

    def _is_decided(self, *, is_torn: bool) -> int:
        """There is no way back any more; returns how many steps this rank had completed."""
        self._part.progress.is_torn = is_torn
        self._part.keeper.forget()
        stood, self._stood = self._stood, None
        if stood is not None:
            self._reached = max(self._reached, stood.reached)
        return self._reached

    def _let_go_of_held(self) -> None:
        self._part.present.held, self._part.present.own_kept = None, {}

    def back_to(self, generation: Generation | None) -> None:
        """Goes on with a former generation, or as before the first one.

        Of a switch that is known to be given up, whatever has ended it here.
        """
        self._stand_again()
        self._part.present.undecided = ""
        if generation is None:
            self._part.present.leave()
        else:
            self._part.regroup(generation)

    def note_groups(self) -> None:
        """Has groups that the script has made since be ended with the present world's."""
        world = self._part.present.world
        if world is not None:
            with suppress(TransportError):  # they are cut already: the step that begins will fail
                world.note_groups()

    # ---- after the loss of members -------------------------------------------------------------

    def abort(self, why: str) -> None:
        """Ends what waits for a peer in the present world, from any thread."""
        world = self._part.present.world
        if world is not None:
            world.abort(why)

    def hold(self, generation: Generation, seats: Seats | None, epoch: int, step: int) -> None:
        """Takes ``seats`` for what is left of a halted world, after ``step`` steps.

        A rank that is not among them has nothing of that version but copies, whatever its state is.
        None where there was no world in this job: a checkpoint says what it was.

        Raises:
            LayoutError: this rank is among them, and has that version no more.
        """
        self._stand_again()
        present, progress = self._part.present, self._part.progress
        reached = progress.completed
        has_checkpoints = self._snapshots is not None and self._snapshots.checkpoints is not None
        is_known = True
        if has_checkpoints:  # who reports a checkpoint need not hold anything
            self.enter(generation)
            if seats is None:
                seats = self._seats_on_disk(step)
            seats, is_known = self._with_holders(seats, step)
        if seats is None:
            raise LayoutError(
                "elastic: this job goes on from a checkpoint, and this member has no folder\n"
                "  expected the same checkpoint_dir on all members\n  nothing was moved\n"
                "  start this member with join(..., checkpoint_dir=, checkpoint_every=)"
            )
        own = generation.members.own.id
        is_holder = seats.place_of(own) is not None
        found = self._copied(step, seats)
        if is_holder and found is None:
            self._come_to(step)
        trained = present.world is not None or progress.is_torn
        self._stood = _Stood(
            present.seats,
            present.world,
            present.state,
            present.epoch,
            progress.completed,
            reached if trained else 0,
        )
        self._part.worlds.forget_ended()
        if is_holder and found is None:
            self.enter(generation)
            present.seats = seats
        else:
            self._stand_without(generation, seats, epoch, step)
        if found is not None:
            present.held, present.own_kept = found
        if has_checkpoints:
            self._fill(generation, epoch, step, is_known)

    def _stand_without(self, generation: Generation, seats: Seats, epoch: int, step: int) -> None:
        """Comes to a recovery without a live state; what it has goes when that is decided."""
        stood = self._stood
        assert stood is not None
        self.stand_by(generation, seats, epoch, step)
        self._part.present.unused = Unused(stood.state, stood.world)

    def _seats_on_disk(self, step: int) -> Seats:
        """The places of the world that has written a checkpoint. Collective."""
        assert self._snapshots is not None
        folder = self._snapshots.checkpoints
        assert folder is not None
        engine = self._part.engine
        return engine.together(
            "reading the checkpoint", lambda: seats_in(folder, step, engine.options.timeout)
        )

    def _with_holders(self, seats: Seats, step: int) -> tuple[Seats, bool]:
        """Without the places of members that have neither a state nor copies of ``step`` steps.

        Whether there are others, too: they know which steps were undone. Collective.
        """
        assert self._snapshots is not None
        engine, near = self._part.engine, self._is_near(step)
        has = near or bool(self._snapshots.copied_of(step, ()))
        told = engine.control.gather(has, "what is left")
        members = engine.generation.members.each
        without = {member.id for member, holds in zip(members, told, strict=True) if not holds}
        return seats.without(without), any(told)

    def _fill(self, generation: Generation, epoch: int, step: int, is_known: bool) -> None:
        """Has members bring what nobody has of ``step`` steps, from a checkpoint. Collective."""
        snapshots, present = self._snapshots, self._part.present
        assert snapshots is not None
        assert snapshots.checkpoints is not None
        assert present.seats is not None
        own, seats = generation.members.own.id, present.seats
        is_live = present.held is None and seats.place_of(own) is not None
        copied = snapshots.copied_of(step, seats.ids)
        of = copied if present.held is not None else (own,) if is_live else ()
        folder = snapshots.checkpoints
        # Where nobody is left who knows which steps were undone, all that is on disk counts.
        on_disk = snapshots.on_disk if is_known else folder.versions
        brings = Brings(of, is_live, bool(copied), step in on_disk)
        recovery = Recovery(step, seats, present.source, brings)
        read = read_missing(self._part.engine, folder, recovery)
        if read is None:
            return
        left = seats.without(read.not_live)
        if is_live and own not in read.not_live:
            present.seats = left
            return
        found = snapshots.held(step, seats.ids, read)
        self._stand_without(generation, left, epoch, step)
        present.held, present.own_kept = found or (None, {})

    def _copied(self, step: int, seats: Seats) -> tuple[Held, dict[str, Any]] | None:
        """What this rank brings of a version that it has copied; None where its state is better.

        The state itself is, unless it is of another version or the copies have a part of somebody
        who has nothing any more.
        """
        snapshots = self._snapshots
        if snapshots is None:
            return None
        if self._is_near(step) and not snapshots.keeps_for_another(step, seats.ids):
            return None
        return snapshots.held(step, seats.ids)

    def _is_near(self, step: int) -> bool:
        """Whether the state is that of ``step`` completed steps, or can be."""
        progress = self._part.progress
        has_state = self._part.present.state is not None
        is_live = has_state and progress.completed == step and not progress.is_torn
        return is_live or self._part.keeper.previous == step

    def _come_to(self, step: int) -> None:
        """Has the state be that of ``step`` completed steps."""
        if self._part.keeper.previous == step:
            self._part.keeper.go_back()
        if self._part.progress.completed != step:
            raise LayoutError(
                f"elastic: this member holds the state of {self._part.progress.completed} steps\n"
                f"  expected that of {step}, which it had when its world was halted\n"
                "  nothing was moved\n  another version follows"
            )

    def prepare(self, layout: Layout) -> None:
        """Prepares a switch; collective over the generation."""
        self._part.prepare(layout, None)

    def _stand_again(self) -> None:
        """Is again what it was when its world was halted, if a recovery was tried since."""
        stood, self._stood = self._stood, None
        self._part.present.unused = None
        self._let_go_of_held()
        if stood is None or stood.seats is None:
            return  # a rank that was in no world yet stands by once more
        self._part.targets.drop()
        present, self._part.progress.completed = self._part.present, stood.completed
        if present.state is not stood.state:
            present.install(stood.seats, stood.world, stood.state)
        present.seats, present.epoch = stood.seats, stood.epoch
