"""What the training thread of a member does between two steps: train on, switch, or end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from typing import Any

from dynatrain._errors import Error, LayoutError, LostStateError, ends_job
from dynatrain.elastic.asked import Asked
from dynatrain.elastic.attempts import (
    is_of_communication,
    is_refusal,
    lost_of,
    met_in,
    read_published,
    seats_of,
    summary_of,
)
from dynatrain.elastic.driven import Driven
from dynatrain.elastic.ends import error_of, given_up, undecided
from dynatrain.elastic.events import Events
from dynatrain.elastic.failed_steps import FailedSteps
from dynatrain.elastic.part import Part
from dynatrain.elastic.ready import Ready, uncovered
from dynatrain.elastic.rescue import RescueOfParts
from dynatrain.elastic.rounds import Begins
from dynatrain.elastic.slices import Slices
from dynatrain.elastic.snapshots import Snapshots
from dynatrain.elastic.underway import Underway
from dynatrain.elastic.wishes import Wishes
from dynatrain.generation.connections import Connections
from dynatrain.generation.generation import Generation
from dynatrain.generation.members import Members
from dynatrain.generation.seats import Seats
from dynatrain.given import described
from dynatrain.layout import Layout
from dynatrain.report import SwitchReport
from dynatrain.switch.decided import Vote

_log = logging.getLogger("dynatrain.elastic")
#: How long a script that leaves its loop waits until that is told.
_QUIT_S = 2.0
#: A vote that is not given yet, or whose attempt is given up; is given; has led to a new world.
_OPEN, _GIVEN, _DECIDED = range(3)


class Driver:
    """Does what the protocol asks of the training thread.

    Args:
        session: that is driven.
        make: a connected generation of these members; called in a thread.
        timeout: deadline of a request to the coordinator's store.
        wishes: of the script.
        snapshots: of this member; None where it makes none.

    Attributes:
        events: of this member.
        ended: why it ended, kind and reason, once it has.
    """

    def __init__(
        self,
        session: Driven,
        make: Callable[[Members], Generation],
        timeout: timedelta,
        wishes: Wishes,
        snapshots: Snapshots | None = None,
    ) -> None:
        self.part: Part  # given once it stands, as it calls prepare()
        self._session = session
        self._make = make
        self._timeout = timeout
        self._wishes, self._snapshots = wishes, snapshots
        self._attempts = Underway()
        self._present: Generation | None = None
        timeout_s = timeout.total_seconds()
        rescue = None if snapshots is None else RescueOfParts(snapshots, session, timeout_s)
        session.vote_by(Vote(self._vote, lambda: self._vote_is != _OPEN, rescue))
        self._attempt, self._vote_is = 0, _OPEN  #: the switch under way, this member's vote in it
        self._has_finished = False  #: the script has done its last step
        self._lacks_state = False  #: that of the present world was lost on its way here
        self._failed = FailedSteps()
        self.events, self.ended = Events(), ("", "")
        self.settings = ""  #: what must be the same on all members, a line for each

    # ---- in threads beside training ------------------------------------------------------------

    def prepare(self, attempt: int) -> None:
        """Makes the generation of an attempt, its groups and lanes, and prepares the switch.

        In a recovery the training thread, which stands, does the latter; the first world has none.

        Raises:
            UncoveredError: the version cannot be put together from what is left.
        """
        connections = Connections(self._timeout)
        self._attempts.begin(attempt, connections)
        store = self.part.store()
        description, places = read_published(store.get(f"attempt/{attempt}"))
        target = description["target"]
        words = summary_of(attempt, description, places)
        self.events.note("preparing", words)
        if description["cold_because"]:
            _log.info("%s", words)
        members = met_in(description, places, self.part.id, store)
        ready = Ready(
            generation=self._make(replace(members, connections=connections)),
            source=seats_of(description),
            target=Layout.parse(target["layout"]),
            world=target["epoch"],
            epoch=description["source"]["epoch"],
            version=target["version"] if description["is_recovery"] else None,
            slices=Slices(lambda: self.part.ask(Asked("slice", attempt)), self._timeout),
        )
        self._attempts.stand(attempt, ready, connections)
        if ready.version is not None:
            self._await_held(attempt, ready, lost_of(description, places))
        elif ready.source is not None and not description["cold_because"]:
            self._prepare_ahead(attempt, ready, (ready.source, ready.epoch))

    def _prepare_ahead(self, attempt: int, ready: Ready, source: tuple[Seats, int]) -> None:
        try:
            ready.prepare_ahead(self._session, source)
        finally:
            if self._attempts.find(attempt) is None:
                ready.generation.close(in_store=False)

    def _await_held(self, attempt: int, ready: Ready, lost: str) -> None:
        self.part.ask(Asked("hold", attempt))
        try:
            ready.await_held(self._timeout)
        except LayoutError as error:
            raise uncovered(ready, error, lost, self._session.previous) from error

    @property
    def begins(self) -> Mapping[str, Any]:
        """What the member's machine begins with."""
        looks = self._snapshots is not None and self._snapshots.checkpoints is not None
        return {"has_checkpoints": looks, "settings": self.settings}

    def find_versions(self) -> list[int]:
        """Versions of the job that this member finds on disk, or has copies of. Raises OSError."""
        return [] if self._snapshots is None else self._snapshots.find()

    def notice(self, kind: str, text: str) -> None:
        """Takes note of what the script may want to hear."""
        self.events.note(kind, text)

    def interrupt(self, asked: Asked) -> None:
        """Ends what the training thread may hang in: the present world, or an attempt."""
        if asked.kind == "discard":
            self.events.note("given-up", f"attempt {asked.attempt}")
            self._attempts.abort(asked.attempt, "the attempt was given up")
            return
        if asked.kind == "stop":
            self.events.note("halted", asked.why[1])
        if self._lets_switch_end(asked):
            return
        why = asked.cuts_because
        if not (self._has_finished and asked.why[0] == "finished"):  # no step needs an end
            self._session.abort(why)
        if asked.kind == "end":
            self._attempts.abort_all(why)
        elif self._vote_is == _DECIDED:  # what is left of that switch waits for the others
            self._attempts.abort(self._attempt, why)

    def _lets_switch_end(self, asked: Asked) -> bool:
        """Whether a member is left out of a world that others go to: it ends that switch first."""
        return asked.why[0] == "released" and self._vote_is != _OPEN

    # ---- in the training thread ----------------------------------------------------------------

    def may_train(self) -> bool:
        """Blocks until a step may begin; False when this member has ended."""
        self.events.tell()
        asked = self.part.at_boundary(self._session.completed)
        while asked.kind != "train" or self._lacks_state:
            if asked.kind == "end":
                self._end_or_raise(asked)
                return False
            self._do(asked)
            self.events.tell()
            asked = self.part.next()
        if self._snapshots is not None:
            self._snapshots.at_boundary(self._session.completed)
        self._session.note_groups()
        return True

    def survives(self, error: Exception) -> bool:
        """Whether a step has failed for what happened to another member. Blocks until it knows.

        Where the coordinator has not said so, an error of communication is told to it, and any
        other is given the time in which a loss is noticed. The same step may fail so a few times.
        """
        if self.part.is_to_stop(0):
            return True
        if not is_of_communication(error):
            return self.part.is_to_stop(self.part.lost_after_s)
        step = self._session.completed
        if not self._failed.once_more(step):
            return False
        self.part.step_broke()
        _log.info("step %d failed in its communication, the coordinator is told: %s", step, error)
        return True

    def ends_at(self, total: int) -> None:
        """So many steps are to be done; a checkpoint of the last one may be due."""
        if self._snapshots is not None:
            self._snapshots.ends_at = total

    def finish(self) -> bool:
        """Tells that the script has done its last step; the world's groups stay, to gather by.

        False where a member is lost before that: steps may have to be done again.
        """
        self.part.rests()
        if self._snapshots is not None:
            self._snapshots.at_end(self._session.completed, lambda: self.part.is_to_stop(0))
        if self.part.is_to_stop(0):
            return False
        self._has_finished = True
        self.part.finished()
        while (asked := self.part.next()).kind != "end":
            self._do(asked)
        self._end_or_raise(asked)
        return True

    def quit(self) -> None:
        """Leaves at once, as a process that dies; waits a moment for the coordinator to hear it."""
        if self.ended != ("", ""):
            return
        self.part.leave(0)
        if self.part.is_to_stop(_QUIT_S):
            while (asked := self.part.next()).kind != "end":
                pass
            self._end(asked)
        else:
            self._end(Asked("end", why=("left", "the script has left its loop")))

    def leave(self, grace_s: float) -> None:
        """Asks to be left out of the next world; may be called by a handler of a signal."""
        self.part.leave_soon(grace_s)

    def request(self, layout: Layout) -> Future[SwitchReport]:
        """Asks the coordinator for a layout."""
        return self._wishes.wish(layout)

    def _end_or_raise(self, asked: Asked) -> None:
        self._end(asked)
        if (error := error_of(*asked.why)) is not None:
            raise error

    def _end(self, asked: Asked) -> None:
        self.ended = asked.why
        if self._snapshots is not None:
            self._snapshots.halt()
        self.part.end()
        self._wishes.end()
        self.events.note("ended", " ".join(asked.why).strip())
        self.events.tell()
        _log.info("this member has ended: %s", " ".join(asked.why).strip())

    def _do(self, asked: Asked) -> None:
        if asked.kind == "switch":
            self._switch(asked.attempt, asked.version)
        elif asked.kind == "hold":
            self._hold(asked.attempt)
        elif asked.kind == "slice":
            self._serve(asked.attempt)
        elif asked.kind == "discard":
            self._attempts.drop(asked.attempt)
        elif asked.kind == "forget" and self._snapshots is not None:
            self._snapshots.forget()
        elif asked.kind == "stop":
            session = self._session
            self._lacks_state = False
            if self._snapshots is not None:
                self._snapshots.halt()
            self.part.stopped(session.completed, session.previous, is_clean=session.is_whole)

    def _serve(self, attempt: int) -> None:
        """Does a piece of a preparation, unless that was given up meanwhile."""
        if (ready := self._attempts.find(attempt)) is not None:
            ready.slices.serve()

    def _hold(self, attempt: int) -> None:
        """Prepares a recovery, from what is left of the world."""
        ready = self._attempts.find(attempt)
        if ready is None:
            return  # it was given up meanwhile
        assert ready.version is not None
        try:
            self._session.hold(ready.generation, ready.source, ready.epoch, ready.version)
            ready.taken.set()
            self._session.prepare(ready.target)
        except Error as error:
            if ends_job(error):
                raise
            self._session.back_to(self._present)
            ready.held.set_exception(error)
        else:
            ready.held.set_result(None)

    def _switch(self, attempt: int, version: int) -> None:
        """Runs an attempt up to its decision; what fails is told, and all go on as before."""
        ready = self._attempts.find(attempt)  # where it is given up, it is aborted from elsewhere
        assert ready is not None
        self._attempt, self._vote_is = attempt, _OPEN
        try:
            self._run(ready, version)
        except LostStateError as error:
            self._go_on_without_state(ready, error)
        except BaseException as error:
            if self._vote_is == _DECIDED:  # a callback's or a kept object's
                self._hand_over(ready)
                raise
            is_open = self._vote_is == _OPEN
            goes_on = is_open and isinstance(error, Error) and not ends_job(error)
            if goes_on:
                self._session.back_to(self._present)
            if is_open:
                self.part.broke(attempt, described(error), is_refusal=is_refusal(error))
            if not goes_on:
                raise
            self._attempts.drop(attempt)
            _log.warning("attempt %d has failed here: %s", attempt, error)
        else:
            self._hand_over(ready)

    def _go_on_without_state(self, ready: Ready, error: LostStateError) -> None:
        """A switch that was decided has lost the state: its world halts before its first step.

        As often as a step may fail: where nobody is lost, it may be the script that fails here.
        """
        self._hand_over(ready, stands=False)
        self._lacks_state = True
        is_last = not (self.part.is_to_stop(0) or self._failed.once_more(self._session.completed))
        self.part.step_broke()
        if is_last:
            raise error
        _log.warning("attempt %d has lost the state on its way: %s", self._attempt, error)

    def _hand_over(self, ready: Ready, *, stands: bool = True) -> None:
        """Goes on with the generation of an attempt that is decided; ``stands``: its state does."""
        self._attempts.decided(self._attempt)
        former, self._present = self._present, ready.generation
        if former is not None:
            former.close_beside()
        if self._snapshots is not None:
            begins = Begins(ready.world, self._session.completed, ready.target)
            if stands:
                self._snapshots.go_on(begins, ready.generation.members, self.part.store)
            else:
                self._snapshots.follow(begins)
        self._vote_is, self._lacks_state = _OPEN, False

    def _run(self, ready: Ready, version: int) -> None:
        if ready.source is None and ready.version is None:
            self._session.begin(ready.generation, ready.target, ready.world)
            return
        if ready.version is None and ready.source is not None:
            if str(self.part.id) in ready.source.ids:
                self._session.enter(ready.generation)
            else:
                self._session.stand_by(ready.generation, ready.source, ready.epoch, version)
        if ready.standing:  # from here on it is the session's, which may have to prepare anew
            self._session.adopt(ready.standing.pop())
        report = self._session.go(ready.target)
        self._wishes.fulfilled(report)
        self.events.note("switched", str(report))
        if ready.version is not None and self._present is None:
            self.events.note("resumed", f"at step {self._session.completed}")
        if lost := self._session.steps_lost:
            self.events.note("went-back", f"to step {self._session.completed}: steps_lost={lost}")

    def _vote(self, target: str, epoch: int) -> None:
        """Votes yes, and waits for the decision of the coordinator."""
        self._vote_is = _GIVEN
        self.part.moved(self._attempt)
        while (asked := self.part.next()).kind in ("slice", "forget"):
            if asked.kind == "forget":
                self._do(asked)
        if asked.kind in ("install", "retire"):
            self._vote_is = _DECIDED
            for later in self.part.waiting:  # it was asked before that was known
                if later.ends_waits and not self._lets_switch_end(later):
                    self._attempts.abort(self._attempt, later.cuts_because)
            return
        if asked.kind == "discard":
            self._vote_is = _OPEN
            raise given_up(target, epoch)
        raise undecided(target, f"{asked.kind} {asked.why}")
