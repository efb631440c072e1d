"""One rank's part in what all ranks of a session call together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch

from dynatrain._errors import Error, LayoutError, TransportError, ends_job, of_family
from dynatrain._torch_private.groups import GroupKind
from dynatrain.adapters.port import Adapter
from dynatrain.caller import Caller
from dynatrain.collector import collector_held_off
from dynatrain.door import checked_layout, checked_names, only_family
from dynatrain.generation.engine import AtBoundary, Engine
from dynatrain.generation.generation import Generation
from dynatrain.generation.seats import Seats
from dynatrain.generation.world import Build
from dynatrain.generation.world_groups import GroupWanted, only_groups_that_stand
from dynatrain.generation.worlds import MakeGroups, Worlds
from dynatrain.given import described
from dynatrain.keeper import StepKeeper
from dynatrain.layout import Layout
from dynatrain.progress import Progress
from dynatrain.report import PreparedSwitch, SwitchReport
from dynatrain.switch.beginning import Initialize, begin
from dynatrain.switch.called import Called
from dynatrain.switch.calls import UNREADABLE, Call, Calls, Met, check_target, cursors_of
from dynatrain.switch.clock import Clock
from dynatrain.switch.decided import Vote
from dynatrain.switch.preparations import Preparations, Wanted
from dynatrain.switch.present import Present
from dynatrain.switch.questions import QUESTIONS
from dynatrain.switch.standing import Standing
from dynatrain.switch.story import Telling, run, tell_script

_T = TypeVar("_T")
#: Of a call whose arguments cannot be read.
_NOWHERE = Layout()
#: What a switch returns: its report, and what kept objects raised when it was done.
Done = tuple[SwitchReport, list[BaseException]]
#: The clock of a call, and what is closed when the call has ended on this rank.
Within = tuple[Clock, ExitStack]


@dataclass(frozen=True)
class Settled:
    """What ``init`` has settled for a session.

    Attributes:
        build: the user's.
        generation: all ranks, not connected yet.
        device: where parameters live.
        adapter: of the state's framework.
        groups: makes what a framework needs of groups for a layout, or None.
        default: what torch's default group is made of where each world has one of its own, or None.
    """

    build: Build
    generation: Generation
    device: torch.device
    adapter: Adapter[Any]
    groups: MakeGroups | None
    default: GroupKind | None = None


class Collective:
    """The calls that all ranks make together, with what they are made over.

    Args:
        settled: what it is made of.
        present: what the rank is now.
        progress: where its loop stands.

    Attributes:
        vote: decides a switch once its state has moved; a meeting of all ranks.
        keeper: of its steps, in a job whose members come and go.
        in_trouble: a call has ended on this rank alone.
        closed: the session makes no calls any more.
    """

    def __init__(self, settled: Settled, present: Present, progress: Progress) -> None:
        self.adapter = settled.adapter
        self.present = present
        self.progress = progress
        self.generation = settled.generation
        means = settled.generation, settled.device, settled.adapter
        self.engine = Engine(*means, worlds_number_ranks=settled.default is not None)
        self.calls = Calls(settled.generation)
        self.vote = Vote(self._vote_in_a_meeting)
        self.worlds = Worlds(self.engine, settled.device, settled.groups, settled.default)
        self.targets = Preparations(self.engine, self.worlds, present, settled.build)
        self.in_trouble = False
        self.closed = False
        self.keeper = StepKeeper(settled.adapter, present, progress)
        self._build = settled.build
        self._caller = Caller()

    def public(self, call: str, work: Callable[[], _T]) -> _T:
        """What ``work`` returns, under what every call has that ranks make together."""
        self.present.check_decided()
        self.progress.check_not_over(f"session.{call}()")
        return self._caller.alone(call, partial(self._within, call, work))

    def _within(self, call: str, work: Callable[[], _T]) -> _T:
        family = only_family(call, lambda: self.present.epoch, lambda: self.present.undecided)
        if self.generation.meeting is not None:
            self.generation.meeting.begin_call()
        with (
            self._naming_who_is_lost(),
            family,
            self.adapter.undisturbed(),
            self._others_need_not_wait(call),
        ):
            return work()

    @contextmanager
    def _naming_who_is_lost(self) -> Iterator[None]:
        """Says that this rank lives where its groups are lost, and hears who does not."""
        try:
            yield
        except BaseException as error:
            if not self.generation.connected:
                self._raise_named(error)
            raise

    @contextmanager
    def _others_need_not_wait(self, call: str) -> Iterator[None]:
        """Lets go of all groups where a call ends on this rank alone, of what ranks agree on not.

        Inside of the door, where an error of the family is one that all ranks have.
        """
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Error) or ends_job(error):
                self.in_trouble = True
                self.generation.release(f"{call} ended on this rank alone")
            raise

    def _raise_named(self, error: BaseException) -> None:
        """Says that this rank lives; raises the error of a lost peer again with who that is."""
        meeting = self.generation.meeting
        if meeting is None:
            return  # the coordinator tells who is lost
        if not isinstance(error, TransportError) or ends_job(error):
            meeting.failed(described(error))
        elif told := meeting.failed():
            named = told.named(error)
            if named is not error:
                raise named from named.__cause__

    # ---- the calls of a script -----------------------------------------------------------------

    def prepare(self, layout: Layout | str, names: Mapping[str, str] | None) -> PreparedSwitch:
        """See :meth:`dynatrain.Session.prepare`."""
        met = partial(self._called, "prepare", layout, names)
        return self.public("prepare", lambda: self.targets.prepare(*met()).told())

    def check(self, layout: Layout | str, names: Mapping[str, str] | None) -> int:
        """See :meth:`dynatrain.Session.check`."""
        met = partial(self._called, "check", layout, names)
        return self.public("check", lambda: self.targets.rehearse(*met()))

    def switch(
        self,
        layout: Layout | str,
        names: Mapping[str, str] | None,
        callbacks: Sequence[Callable[[SwitchReport], None]],
        problem: LayoutError | None = None,
    ) -> SwitchReport:
        """Meets all ranks and switches; see :meth:`dynatrain.Session.switch`.

        ``callbacks`` are told of it; ``problem`` is what this rank refuses it with.
        """

        def work() -> tuple[Done, Seats | None]:
            target, renamed, wrong = self._asked("switch", layout, names)
            clock = Clock(self.engine.rank)
            with clock.phase("meet"):
                met = self._met("switch", target, renamed, problem or wrong)
            if self.present.world is None:
                clock = Clock(self.engine.rank)  # who idles has stopped nothing until now
            before = self.present.seats
            done = self.switched(target, renamed, met, (clock, after), self.progress.told)
            self.progress.count()
            return done, before

        with ExitStack() as after:
            # From the call on: a rank that collects while it reads its state comes late to all.
            with collector_held_off():
                (report, errors), before = self.public("switch", work)
            try:
                return tell_script(callbacks, report, errors, self.engine.rank)
            finally:
                now, world = self.present.seats, self.present.world
                if world is not None and now and before and now.takes_in(before):
                    self.progress.joined(world)

    def ask(self, question: str) -> Any:
        """Asks all ranks, idle ones too, something about the present state."""

        def work() -> Any:
            connected = self.generation.connected
            layout, epoch = str(self.present.layout), self.present.epoch
            own = Call(
                question, layout, self.progress.told, ready=False, connected=connected, epoch=epoch
            )
            met = self.calls.meet(own, self.refusal(), is_dated=self.progress.running > 0)
            self.reconnect(met)
            return QUESTIONS[question](self.engine, self.present)

        return self.public(question, work)

    def _vote_in_a_meeting(self, target: str, epoch: int) -> None:
        self.calls.meet(Call("commit", target, epoch, ready=True, connected=True))

    # ---- their parts ---------------------------------------------------------------------------

    def refusal(self) -> Error | None:
        """Why this rank takes part in no call now, or None."""
        if self.closed:
            return self.was_closed()
        try:
            self.generation.check_room()
        except Exception as error:  # noqa: BLE001 - before the others wait in the making of groups
            return of_family(error, "connecting the ranks")
        return None

    def was_closed(self) -> LayoutError:
        """The refusal of a call behind :meth:`end`."""
        return LayoutError(
            "session: it was closed\n"
            "  expected close() to be the last call of a session\n"
            "  nothing was moved; session.state stays as it is, of this rank alone\n"
            "  close it behind the last step; dynatrain.init starts another session, whose state "
            "build makes anew: initialize=, or a checkpoint, has to fill it with what is to go on"
        )

    def _asked(
        self, op: str, layout: Layout | str, names: Mapping[str, str] | None
    ) -> tuple[Layout, dict[str, str], LayoutError | None]:
        """What a call is given; where that is wrong, what to tell the others, who would wait."""
        try:
            return checked_layout(op, layout), checked_names(op, names), None
        except LayoutError as error:
            return _NOWHERE, {}, error

    def _called(
        self, op: str, layout: Layout | str, names: Mapping[str, str] | None
    ) -> tuple[Layout, dict[str, str], Met]:
        """What a call is given, and the meeting of all ranks over it."""
        target, renamed, problem = self._asked(op, layout, names)
        return target, renamed, self._met(op, target, renamed, problem)

    def _met(
        self, op: str, layout: Layout, names: Mapping[str, str], problem: Error | None = None
    ) -> Met:
        """Meets all ranks over one operation, and makes the groups anew where some are lost."""
        ready, cursors = False, {}
        problem = problem or self.refusal()
        try:
            if problem is not None:
                raise problem
            self.check_now(layout, self.present.keep)
            ready = self.targets.is_ready(layout, names)
            cursors = cursors_of(self.present.keep) if self.present.world is not None else {}
        except Exception as error:  # noqa: BLE001 - the others must learn of it, not wait
            problem = of_family(error, f"the call of {op}")
        connected, places = self.generation.connected, self.targets.places
        renamed = tuple(sorted(names.items()))
        target = UNREADABLE if layout is _NOWHERE else str(layout)
        own = Call(op, target, self.progress.told, ready, connected, cursors, renamed, places)
        own = replace(own, is_held=self.present.held is not None, epoch=self.present.epoch)
        met = self.calls.meet(own, problem, is_dated=self.progress.running > 0)
        self.reconnect(met)
        return met

    def check_now(
        self, layout: Layout, keep: Mapping[str, Any], num_ranks: int | None = None
    ) -> None:
        """Raises when this rank cannot go to ``layout`` now; of the present ranks, if not told."""
        check_target(layout, num_ranks or self.engine.num_ranks, keep)
        why_not = self.adapter.why_not_now(self.present.state)
        if why_not is not None:
            raise LayoutError(why_not, is_momentary=True)
        if self.present.state is not None:
            self.adapter.check_trained(self.present.state)

    def reconnect(self, met: Met) -> None:
        """Makes the groups of all ranks anew where a call says that some are lost. Collective."""
        if not met.connected:
            self.targets.drop()  # its runs are bound to the connection that was lost
            self.generation.disconnect("a rank has lost its groups")
            self.generation.connect(met.name)

    def prepare_ahead(self, generation: Generation, wanted: Wanted, slices: AtBoundary) -> Standing:
        """Prepares a switch over a generation that is to come, while training goes on.

        In a thread; ``slices`` has the training thread do what is its own between two steps. The
        target is to be given to ``targets.adopt`` once :meth:`regroup` has had that generation.
        Collective over it.
        """
        taken = [0.0]

        def aside(work: Callable[[], _T]) -> _T:
            with self.adapter.undisturbed(), only_groups_that_stand():
                return work()

        def here(work: Callable[[], _T]) -> _T:
            began = time.perf_counter()
            try:
                return self._caller.alone("prepare", partial(aside, work))
            finally:
                taken[0] += time.perf_counter() - began

        def beside(clock: Clock) -> AtBoundary:
            def at_boundary(work: Callable[[], _T], /) -> _T:
                with clock.phase("boundary"):
                    while True:
                        try:
                            return slices(lambda: here(work))
                        except GroupWanted as missing:
                            missing.make()

            return at_boundary

        standing = self.targets.prepare_ahead(generation, wanted, beside)
        has_trained = self.present.world is not None
        return replace(standing, boundary_seconds=taken[0] if has_trained else 0.0)

    def switched(
        self, layout: Layout, names: Mapping[str, str], met: Met, within: Within, step: int
    ) -> Done:
        """Switches to what all have met over, after ``step`` completed steps. Collective."""
        source, epoch, ready = str(self.present.layout), self.present.epoch + 1, met.ready
        report = SwitchReport(source, str(layout), epoch, step, prepared=ready)
        with collector_held_off():
            target = self.targets.taken(layout, names, met, within[0])
            errors = run(self.engine, self.vote, self.present, target, Telling(report, *within))
        return report, errors

    def regroup(self, generation: Generation) -> None:
        """Goes on with other members, whose generation stands; nothing is prepared any more.

        Whoever has a place now is among them, and each world has a default group of its own. The
        former generation stays as it is; whoever made it closes it, without its worlds: the
        present one lives on.
        """
        self.targets.drop()
        self.generation = self.engine.generation = generation
        self.calls = Calls(generation)

    # ---- life ----------------------------------------------------------------------------------

    def begin(self, layout: Layout, initialize: Initialize | None, keep: Mapping[str, Any]) -> None:
        """Starts a session of ranks that nobody else tells of each other. Collective."""
        with self._naming_who_is_lost(), self._others_need_not_wait("init"):
            self.start(layout, initialize, keep)

    def start(self, layout: Layout, initialize: Initialize | None, keep: Mapping[str, Any]) -> None:
        """Builds the first world, of the present epoch, and state. Collective."""
        engine = self.engine
        if not self.generation.connected:
            self.generation.connect("start")
        engine.together("the first layout", lambda: self.check_now(layout, keep))
        seats = Seats.first_of(self.generation.members, layout)
        world = self.worlds.at(seats, self.present.epoch, "world/start", kept=False)
        state = begin(engine, Called(seats, seats, world, self._build), initialize)
        self.present.install(seats, world, state)
        self.present.keep = dict(keep)

    def stand_by(self, seats: Seats, epoch: int, keep: Mapping[str, Any]) -> None:
        """Takes note of the world of the others, in which this rank has no place yet."""
        self.worlds.note_idle(seats)
        self.present.install(seats, None, None)
        self.present.epoch = epoch
        self.present.keep = dict(keep)

    def end(self, *, in_store: bool = True) -> None:
        """Ends the groups of all ranks and worlds, and what is prepared; refuses later calls.

        Keys in the store go with those of the last rank, unless ``in_store`` is False.
        """

        def work() -> None:
            self.closed = True
            self.targets.drop()
            try:
                self.present.close()
                self.worlds.end()
            finally:
                self.generation.close(in_store=in_store and not self.in_trouble)

        self._caller.alone("close", work)
