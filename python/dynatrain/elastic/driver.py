"""What the training thread of a member does between two steps: train on, switch, or end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from torch._C._distributed_c10d import PrefixStore, TCPStore

from dynatrain._errors import Error, InternalError, TransportError, ends_job
from dynatrain.elastic.part import Asked, Part, described
from dynatrain.generation.generation import Generation
from dynatrain.generation.members import Member, Members
from dynatrain.generation.seats import Seats
from dynatrain.layout import Layout
from dynatrain.switch.decided import Vote

_log = logging.getLogger("dynatrain.elastic")


class Session(Protocol):
    """What a driver needs of the session that it drives."""

    def vote_by(self, vote: Vote) -> None:
        """Has every switch be decided by ``vote``."""

    @property
    def completed(self) -> int:
        """Completed steps."""

    def begin(self, generation: Generation, layout: Layout) -> None:
        """Builds the first world and state; collective over the generation."""

    def stand_by(self, generation: Generation, seats: Seats, epoch: int, step: int) -> None:
        """Takes note of the world of others, in which this rank has no place."""

    def go(self, generation: Generation, layout: Layout) -> None:
        """Switches among the members of a generation; collective over it."""

    def back_to(self, generation: Generation | None) -> None:
        """Goes on with a former generation, or as before the first one."""


@dataclass(frozen=True)
class Ready:
    """An attempt whose generation stands.

    Attributes:
        generation: of all who are in the source or the target; the target's ranks come first.
        source: who trains now; None where nobody does.
        target: the layout to go to.
        epoch: of the source, as sessions count.
    """

    generation: Generation
    source: Seats | None
    target: Layout
    epoch: int


class Driver:
    """Does what the protocol asks of the training thread.

    Args:
        session: that is driven.
        make: a connected generation of these members; called in a thread.
        timeout: deadline of a request to the coordinator's store.
    """

    def __init__(
        self,
        session: Session,
        make: Callable[[Members], Generation],
        timeout: timedelta,
    ) -> None:
        self.part: Part  # given once it stands, as it calls prepare()
        self._session = session
        self._make = make
        self._timeout = timeout
        self._lock = threading.Lock()
        self._ready: dict[int, Ready] = {}
        self._present: Generation | None = None
        session.vote_by(self._vote)
        self._attempt = 0
        self.ended = ("", "")  #: why this member ended, once it has

    # ---- in a thread beside training -----------------------------------------------------------

    def prepare(self, attempt: int) -> None:
        """Makes the generation of an attempt: its groups and lanes."""
        host, port = self.part.store_at
        store = TCPStore(host, port, is_master=False, timeout=self._timeout)
        description, hosts = described(store.get(f"attempt/{attempt}"))
        source, target = description["source"], description["target"]
        ids = [*target["members"], *(m for m in source["members"] if m not in target["members"])]
        name = f"{target['epoch']}.{attempt}"
        each = tuple(Member(str(member), hosts.get(member, "")) for member in ids)
        members = Members(name, ids.index(self.part.id), each, PrefixStore(name, store))
        generation = self._make(members)
        seats = _seats(source)
        ready = Ready(generation, seats, Layout.parse(target["layout"]), source["epoch"] - 1)
        with self._lock:
            self._ready[attempt] = ready

    # ---- in the training thread ----------------------------------------------------------------

    def may_train(self) -> bool:
        """Blocks until a step may begin; False when this member has ended."""
        asked = self.part.at_boundary(self._session.completed)
        while asked.kind != "train":
            if asked.kind == "end":
                self._end(asked)
                return False
            self._do(asked)
            asked = self.part.next()
        return True

    def finish(self) -> None:
        """Tells that the script has done its last step, and waits until all know."""
        self.part.finished()
        while (asked := self.part.next()).kind != "end":
            self._do(asked)
        self._end(asked)

    def leave(self, grace_s: float) -> None:
        """Asks to be left out of the next world; may be called by a handler of a signal."""
        threading.Thread(target=self.part.leave, args=(grace_s,), daemon=True).start()

    def _end(self, asked: Asked) -> None:
        self.ended = asked.why
        self.part.end()
        kind, why = asked.why
        _log.info("this member has ended: %s %s", kind, why)

    def _do(self, asked: Asked) -> None:
        if asked.kind == "switch":
            self._switch(asked.attempt, asked.version)
        elif asked.kind == "discard":
            self._drop(asked.attempt)
        elif asked.kind == "stop":
            self.part.stopped(self._session.completed, is_clean=True)

    def _switch(self, attempt: int, version: int) -> None:
        """Runs an attempt up to its decision; what fails is told, and all go on as before."""
        with self._lock:
            ready = self._ready.pop(attempt)
        self._attempt = attempt
        try:
            self._run(ready, version)
        except Error as error:
            if ends_job(error):
                raise
            self._session.back_to(self._present)
            self.part.broke(attempt, f"{type(error).__name__}: {error}")
            ready.generation.close(in_store=False)
            _log.warning("attempt %d has failed here: %s", attempt, error)
            return
        former, self._present = self._present, ready.generation
        if former is not None:
            former.close(in_store=False)  # its keys are the coordinator's to delete

    def _run(self, ready: Ready, version: int) -> None:
        if ready.source is None:
            self._session.begin(ready.generation, ready.target)
            return
        if self.part.id not in {int(each) for each in ready.source.ids}:
            self._session.stand_by(ready.generation, ready.source, ready.epoch, version)
        self._session.go(ready.generation, ready.target)

    def _drop(self, attempt: int) -> None:
        with self._lock:
            ready = self._ready.pop(attempt, None)
        if ready is not None:
            ready.generation.close(in_store=False)

    def _vote(self, target: str, epoch: int) -> None:
        """Votes yes, and waits for the decision of the coordinator."""
        self.part.moved(self._attempt)
        asked = self.part.next()
        if asked.kind in ("install", "retire"):
            return
        if asked.kind == "discard":
            raise TransportError(
                f"elastic: the switch to {target} after epoch {epoch} was given up\n"
                "  expected all members to have moved their part of the state\n"
                "  nothing was switched; the source state is intact and training goes on\n"
                "  `dynatrain status` tells why; the coordinator tries again"
            )
        raise InternalError(
            f"elastic: this member could not learn whether the switch to {target} was decided: "
            f"{asked.kind} {asked.why}\n"
            "  expected the coordinator to say so within the deadline\n"
            "  this member has switched nothing, but others may have; it trains in neither world\n"
            "  end this process; the others go on without it"
        )


def _seats(world: dict[str, Any]) -> Seats | None:
    if not world["members"]:
        return None
    return Seats(Layout.parse(world["layout"]), tuple(str(member) for member in world["members"]))
