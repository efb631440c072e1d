"""The session: one training job, its present world and state, and the switches between worlds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any

from dynatrain._errors import LayoutError
from dynatrain.collective import Collective, Settled
from dynatrain.door import (
    checked_callable,
    checked_count,
    checked_layout,
    checked_seconds,
)
from dynatrain.elastic.events import Event
from dynatrain.layout import Layout
from dynatrain.loop import Gate, Loop
from dynatrain.position import Position
from dynatrain.report import PreparedSwitch, SwitchReport
from dynatrain.requested import Requested
from dynatrain.switch.beginning import Initialize
from dynatrain.switch.calls import check_target

_ASK = "ask for a layout by session.request(layout), or `dynatrain resize --layout ...`"
_LONGEST_GRACE_S = 24 * 3600.0
#: What does in a job of :func:`dynatrain.join.join` what a call of all ranks does elsewhere.
_INSTEAD = {
    "switch()": _ASK,
    "prepare()": f"{_ASK}; it is prepared while the job trains",
    "check()": f"{_ASK}; what members refuse is named by `dynatrain status`, and training goes on",
    "fingerprint()": "join(..., verify=('sums', 'fingerprint')) puts it in every report",
    "verify_replicas()": "join(..., verify=('sums', 'replicas')) compares them before each switch",
}


class Session(Position):
    """One training job under dynatrain; made by :func:`dynatrain.init`.

    Not thread-safe: all methods belong to the training thread.
    """

    def __init__(self, settled: Settled) -> None:
        generation = settled.generation
        super().__init__(generation.members.own.id, settled.device, generation.options.seed)
        self._part = Collective(settled, self._now, self._progress)
        self._callbacks: list[Callable[[SwitchReport], None]] = []
        self._loop = Loop(self._part, self._callbacks)

    # ---- the loop ------------------------------------------------------------------------------

    def steps(self, total: int) -> Iterator[int]:
        """Yields the number of every step from ``session.step`` up to ``total``.

        A requested switch runs between two steps. On a rank that idles the loop waits for the next
        switch that needs it, and ends with the loop of the others.

        A step counts as completed when the loop goes on behind it. Where its body is left by break
        or an exception it counts exactly if an optimizer of the state has stepped by then, or if it
        was switched; a script that catches the exception and loops again repeats a step that did
        not train. Without an optimizer whose steps torch shows by its hooks, and once they are
        replayed as a CUDA graph, it counts.

        One loop runs at a time. A loop inside of another one's body takes its steps of the same
        count: the outer loop goes on where the inner one has ended, and ends with it at the same
        ``total``. In a job of :func:`join` that has ended for this process no step is yielded.

        Raises:
            LayoutError: ``total`` is no whole number, or is negative; the session was closed, also
                in the body of the loop when another step was to come.
            TransportError: this member of a job of :func:`join` is lost to it, hears no coordinator
                any more, or the job's state is gone; what lies in its memory is not that.
        """
        self._check_open()
        return self._loop.steps(checked_count("steps", "total", total))

    def recoverable(self) -> AbstractContextManager[None]:
        """Lets the step in its body fail because another process has died or is cut off.

        For the body of :meth:`steps` in a job of :func:`join`; elsewhere it does nothing. Where the
        others are told that a member is lost, or a message between ranks fails, the error ends
        here: the step does not count, and the loop goes on with it in the world that remains, whose
        state is that of the last whole step. Any other error is raised, five seconds later by
        default, as it may be the first sign of such a loss; the others go on without this process.

        What a step changes beside the state of the session is not taken back; of kept objects,
        loaders are. Costs a step a read of the random streams and a copy of the buffers that steps
        write.
        """
        return self._loop.recoverable()

    # ---- switching -----------------------------------------------------------------------------

    def request(self, layout: Layout | str) -> Future[SwitchReport]:
        """Asks for a switch at the next step boundary of :meth:`steps`.

        In a job of :func:`join` one member is enough: the coordinator is asked, and the future
        holds the report of the next switch to ``layout``, or why it was refused. Elsewhere every
        active rank must ask in the same step: one that asks alone waits for the others at that
        boundary until ``timeout_s``. The future holds the report or the error, which
        is logged as a warning by ``dynatrain.session``, as nobody may ask the future. Training goes
        on, unless the error says to end the job: the loop raises it then. Cancelled by
        ``future.cancel()`` before the boundary on every active rank; were it cancelled on some,
        nothing is switched, and the others' futures hold a LayoutError that names these ranks.

        The switch is made by the thread that trains: its ``future.result()`` raises LayoutError
        while the switch is not done, unless it is given a timeout. Where a loop is left, the
        request waits for the next one; :meth:`close` has the future hold a LayoutError.

        Raises:
            LayoutError: ``layout`` is none or has more ranks than the job, a switch is requested
                already, or the session was closed.
        """
        self._progress.check_not_over("session.request()")
        if self.closed:
            raise self._part.was_closed()
        target = checked_layout("request", layout)
        if self._loop.gate is not None:
            return self._loop.gate.request(target)
        # Without the kept objects: one that refuses on some ranks would keep these from the others.
        check_target(target, self._part.generation.members.num_ranks, {})
        if self._loop.request is not None:
            self._loop.request.check_replaceable()
        self._loop.request = Requested(target)
        return self._loop.request.future

    def on_switch(self, callback: Callable[[SwitchReport], None]) -> None:
        """Calls ``callback(report)`` on this rank after every switch.

        Kept objects have been told of the world by then, and random streams stand where they go on:
        a script that seeds by itself does so here.

        Raises:
            LayoutError: ``callback`` cannot be called, or the session was closed.
        """
        self._check_open()
        checked_callable("on_switch", "callback", callback)
        self._callbacks.append(callback)

    def prepare(
        self, layout: Layout | str, *, names: Mapping[str, str] | None = None
    ) -> PreparedSwitch:
        """Builds and plans ``layout`` ahead, so that a switch to it only moves bytes. Collective.

        The target's memory is held from now on. One layout is prepared at a time; preparing
        another one drops the former. A switch to it that is given no names goes by those of here.

        Returns:
            What the switch will move, and what is held for it.
        """
        self._check_not_driven("prepare()")
        return self._part.prepare(layout, names)

    def check(self, layout: Layout | str, *, names: Mapping[str, str] | None = None) -> int:
        """Says whether a switch to ``layout`` would be refused, and moves nothing. Collective.

        Runs build on meta and holds names, slots, values and budget against each other. Kept
        objects are asked as before a switch, and replicas compared where ``verify`` asks for it. No
        memory is taken; groups of the layout are made, and a switch finds them.

        Returns:
            Bytes beside the source that the switch takes on the rank that needs most, but for the
            tables of copies of a GPU, known once memory is taken; ``report.extra_peak_bytes`` and
            the budget of a switch count them.

        Raises:
            What the switch would raise before anything moves; the state is unchanged.
        """
        self._check_not_driven("check()")
        return self._part.check(layout, names)

    def switch(
        self, layout: Layout | str, *, names: Mapping[str, str] | None = None
    ) -> SwitchReport:
        """Switches to ``layout`` between two steps. Collective and blocking.

        Inside :meth:`steps` it is the last thing in the loop's body: the step counts as completed,
        and ranks that join begin with the next one. Where some do, :attr:`state`, :attr:`world`,
        its meshes and groups, and calls of all ranks are refused in the rest of the body.

        Args:
            layout: the target; at most as many ranks as the job has, the rest idles.
            names: FQNs of the target, by FQN of the source, where they differ.

        Returns:
            The report, equal on all ranks.

        Raises:
            LayoutError: the layout, the model or the moment does not fit; the state is unchanged.
            DeviceError: a tensor lies neither on the host nor on the session's device; the state is
                unchanged.
            BudgetError: the switch needs more memory than it may take; the state is unchanged.
            TransportError: a rank is missing or failed, or what arrived has another fingerprint;
                the state is unchanged.
            InternalError: this rank could not learn how the vote ended, or failed behind it: the
                job is to be ended.
            What a kept object's ``on_world`` or a callback raised: the switch is done then, on this
                rank as on all others.
        """
        self._check_not_driven("switch()")
        return self._part.switch(layout, names, self._callbacks)

    def drive_by(self, gate: Gate) -> None:
        """Leaves it to ``gate`` when steps and switches come; called once by :func:`join`."""
        self._loop.gate = gate

    def leave(self, grace_s: float) -> None:
        """Asks the coordinator to go on without this process; for a handler of SIGTERM, too.

        The loop ends on this process once the others have its part of the state and, where
        snapshots are made, copies of it, or after ``grace_s`` in any case, a day at most.

        Raises:
            LayoutError: the process has not joined an elastic job, or that is no time.
        """
        grace_s = checked_seconds("leave", "grace_s", grace_s, _LONGEST_GRACE_S)
        if self._loop.gate is None:
            raise _not_joined("leave()", "switch to a layout with fewer ranks; the others idle")
        self._loop.gate.leave(grace_s)

    def on_event(self, callback: Callable[[Event], None]) -> None:
        """Calls ``callback(event)`` between two steps for what has happened in an elastic job.

        Each has a ``kind`` (``preparing``, ``given-up``, ``switched``, ``went-back``, ``halted``,
        ``snapshot``, ``checkpoint``, ``resumed``, ``coordinator-lost``, ``coordinator-found``,
        ``ended``) and a ``text``. What it raises is logged.

        Raises:
            LayoutError: the process has not joined an elastic job.
        """
        checked_callable("on_event", "callback", callback)
        if self._loop.gate is None:
            raise _not_joined("on_event()", "use session.on_switch")
        self._loop.gate.events.call(callback)

    @property
    def ended(self) -> tuple[str, str]:
        """Why this member of an elastic job has ended, kind and reason; empty before it has."""
        return ("", "") if self._loop.gate is None else self._loop.gate.ended

    def _check_open(self) -> None:
        """Raises LayoutError where nothing comes of a call; an elastic job tells its end itself."""
        if self.closed and self._loop.gate is None:
            raise self._part.was_closed()

    def _check_not_driven(self, call: str) -> None:
        if self._loop.gate is not None:
            raise LayoutError(
                f"session: {call} of a process that has joined a coordinator's job\n"
                "  expected its coordinator alone to call all members together\n"
                "  nothing was changed; training may go on\n"
                f"  {_INSTEAD[call]}"
            )

    # ---- life ----------------------------------------------------------------------------------

    def start(self, layout: Layout, initialize: Initialize | None, keep: Mapping[str, Any]) -> None:
        """Builds the first world and state; called once by :func:`dynatrain.init`. Collective."""
        self._part.begin(layout, initialize, keep)

    def place_kept(self) -> None:
        """Tells the kept objects of the first world; called once by :func:`dynatrain.init`.

        Raises what the first of them raised: the session has started then.
        """
        with self._part.adapter.undisturbed():
            errors = self._now.move_kept()
        for error in errors.values():
            raise error

    def fingerprint(self) -> str:
        """The fingerprint of the present state, the same in every layout. Collective."""
        self._check_not_driven("fingerprint()")
        return str(self._part.ask("fingerprint"))

    def verify_replicas(self) -> list[str]:
        """One line per cell on which its owners differ; empty when replicas agree. Collective."""
        self._check_not_driven("verify_replicas()")
        return list(self._part.ask("verify_replicas"))

    def close(self) -> None:
        """Ends the session: its groups with their sockets and threads, and what is prepared.

        Groups and meshes of its worlds end, too: what is to be gathered of DTensors has to be
        gathered before. The present state stays, as each rank holds it; what its meshes have opened
        ends with it. Later calls that ranks make together are refused on all ranks. To be called on
        every rank; not collective. A member of an elastic job that has not ended leaves the job at
        once, as by :meth:`leave` without grace.

        Raises:
            LayoutError: another call is under way, or the process was forked.
        """
        try:
            # Keys of an elastic job are its coordinator's to delete, which may be gone.
            self._part.end(in_store=self._loop.gate is None)
        finally:
            if self._part.closed:  # else it was refused, and the session goes on
                self._end_loop()

    def _end_loop(self) -> None:
        """Nobody waits for this rank any more, nor for what it has asked for."""
        if self._loop.request is not None:
            self._loop.request.end()
            self._loop.request = None
        if self._loop.gate is not None:
            self._loop.gate.quit()  # else the others would wait for it at every change

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._part.closed

    @property
    def in_trouble(self) -> bool:
        """Whether a call has ended on this rank alone."""
        return self._part.in_trouble


def _not_joined(call: str, advice: str) -> LayoutError:
    return LayoutError(
        f"session: {call} of a job whose ranks do not change\n"
        "  expected a session of dynatrain.join\n  nothing was changed\n"
        f"  {advice}"
    )
