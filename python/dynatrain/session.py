"""The session: one training job, its present world and state, and the switches between worlds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch

from dynatrain._errors import Error, LayoutError, ends_job, of_family
from dynatrain.adapters.port import Adapter
from dynatrain.attending import Attendant, Done, Duties, Within
from dynatrain.caller import Caller
from dynatrain.collector import collector_held_off
from dynatrain.door import (
    checked_callable,
    checked_count,
    checked_layout,
    checked_names,
    only_family,
)
from dynatrain.generation.engine import Engine, Options
from dynatrain.generation.members import Members
from dynatrain.generation.rendezvous import Rendezvous
from dynatrain.generation.world import Build
from dynatrain.generation.worlds import MakeGroups, Worlds
from dynatrain.layout import Layout
from dynatrain.position import Position
from dynatrain.report import SwitchReport
from dynatrain.requested import Requested
from dynatrain.switch.beginning import Initialize, begin
from dynatrain.switch.called import Called
from dynatrain.switch.calls import Call, Calls, Met, check_target, cursors_of
from dynatrain.switch.clock import Clock
from dynatrain.switch.preparations import Preparations
from dynatrain.switch.questions import QUESTIONS
from dynatrain.switch.story import Telling, run, tell_script


class Session(Position):
    """One training job under dynatrain; made by :func:`dynatrain.init`.

    Not thread-safe: all methods belong to the training thread.
    """

    def __init__(  # noqa: PLR0913 - what init has checked, one by one
        self,
        build: Build,
        options: Options,
        device: torch.device,
        adapter: Adapter[Any],
        members: Members,
        groups: MakeGroups | None,
    ) -> None:
        super().__init__(members.rank, device, options.seed)
        self._build = build
        self._adapter = adapter
        self._engine = Engine(options, device, members, adapter)
        self._meeting = Rendezvous(members.store, members.rank, members.num_ranks, options.timeout)
        self._calls = Calls(self._meeting)
        self._attendant = Attendant(self._engine, self._meeting, self._calls, self._now)
        self._worlds = Worlds(self._engine, device, groups)
        self._targets = Preparations(self._engine, self._worlds, self._now, build)
        self._caller = Caller()
        self.in_trouble = False  #: a call has ended on this rank alone
        self._in_loop = False
        self._in_step = False
        self.closed = False  #: by close()
        self._loops = 0
        self._request: Requested | None = None
        self._callbacks: list[Callable[[SwitchReport], None]] = []

    # ---- the loop ------------------------------------------------------------------------------

    def steps(self, total: int) -> Iterator[int]:
        """Yields the number of every step from ``session.step`` up to ``total``.

        A requested switch runs between two steps. On a rank that idles the loop waits for the next
        switch that needs it, and ends with the loop of the others.

        Raises:
            LayoutError: ``total`` is no whole number, or is negative.
        """
        return self._loop(checked_count("steps", "total", total))

    def _loop(self, total: int) -> Iterator[int]:
        self._loops += 1
        ended = f"ended/{self._loops}"
        failed = False
        self._in_loop = True
        try:
            while self._await_activity(ended) and self._step < total:
                self._in_step = True
                yield self._step
                self._end_step()
                self._run_request()
        except GeneratorExit:
            raise  # the script has left its loop
        except BaseException:
            failed = True  # on this rank alone: ranks that idle wait for the others
            raise
        finally:
            self._in_loop = False
            self._end_step()
            if not failed and self.active and self._engine.num_ranks > self.layout.world_size:
                self._attendant.announce(ended, self._step)

    def _await_activity(self, ended: str) -> bool:
        """Attends what others call while this rank idles; False when their loop has ended."""
        last = None if self.active else self._attendant.await_activity(ended, self._duties())
        if last is None:
            return True
        self._step = last  # calls name it, also this rank's
        return False

    def _end_step(self) -> None:
        if self._in_step:
            self._in_step = False
            self._step += 1

    @property
    def _completed(self) -> int:
        return self._step + (1 if self._in_step else 0)

    @property
    def _dated(self) -> bool:
        return self._in_loop or self._meeting.has_failed

    def _run_request(self) -> None:
        if self._request is None:
            return
        wish, self._request = self._request, None
        wish.run(lambda problem: self._switch_together(wish.layout, None, problem))

    # ---- switching -----------------------------------------------------------------------------

    def request(self, layout: Layout | str) -> Future[SwitchReport]:
        """Asks for a switch at the next step boundary of :meth:`steps`.

        Every active rank must ask in the same step. The future holds the report or the error;
        training goes on, unless the error says to end the job. Cancelled by ``future.cancel()``
        before the boundary on every active rank; were it cancelled on some, nothing is switched,
        and the others' futures hold a LayoutError that names these ranks.

        Raises:
            LayoutError: ``layout`` is none or has more ranks than the job, or a switch is requested
                already.
        """
        target = checked_layout("request", layout)
        # Without the kept objects: one that refuses on some ranks would keep these from the others.
        check_target(target, self._engine.num_ranks, {})
        if self._request is not None:
            self._request.check_replaceable()
        self._request = Requested(target)
        return self._request.future

    def on_switch(self, callback: Callable[[SwitchReport], None]) -> None:
        """Calls ``callback(report)`` on this rank after every switch."""
        checked_callable("on_switch", "callback", callback)
        self._callbacks.append(callback)

    def prepare(self, layout: Layout | str, *, names: Mapping[str, str] | None = None) -> None:
        """Builds and plans ``layout`` ahead, so that a switch to it only moves bytes. Collective.

        The target's memory is held from now on. One layout is prepared at a time; preparing
        another one drops the former.
        """
        with self._public("prepare"):
            target, renamed = checked_layout("prepare", layout), checked_names("prepare", names)
            self._targets.prepare(target, renamed, self._call("prepare", target, renamed))

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
        with self._public("check"):
            target, renamed = checked_layout("check", layout), checked_names("check", names)
            return self._targets.rehearse(target, renamed, self._call("check", target, renamed))

    def switch(
        self, layout: Layout | str, *, names: Mapping[str, str] | None = None
    ) -> SwitchReport:
        """Switches to ``layout`` between two steps. Collective and blocking.

        Inside :meth:`steps` it is the last thing in the loop's body: the step counts as completed,
        and ranks that join begin with the next one.

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
        return self._switch_together(layout, names)

    def _switch_together(
        self,
        layout: Layout | str,
        names: Mapping[str, str] | None,
        problem: LayoutError | None = None,
    ) -> SwitchReport:
        """Meets all ranks and switches; ``problem`` is what this rank refuses it with."""
        with ExitStack() as after:
            with self._public("switch"):
                target, renamed = checked_layout("switch", layout), checked_names("switch", names)
                clock = Clock(self._engine.rank)
                with clock.phase("meet"):
                    met = self._call("switch", target, renamed, problem)
                report, errors = self._switch(target, renamed, met, (clock, after))
            return tell_script(self._callbacks, report, errors)

    @contextmanager
    def _public(self, call: str) -> Iterator[None]:
        """What every call runs under that ranks make together."""
        self._now.check_decided()
        with self._caller.alone(call):
            try:
                with self._adapter.undisturbed(), only_family(call, lambda: self._now.epoch):
                    yield
            except BaseException as error:
                if not isinstance(error, Error) or ends_job(error):
                    # The ranks have not agreed on it: the others need not wait for this one.
                    self.in_trouble = True
                    self._engine.release(f"{call} ended on this rank alone")
                if not self._engine.connected:
                    self._meeting.failed()
                raise

    def _call(
        self, op: str, layout: Layout, names: Mapping[str, str], problem: Error | None = None
    ) -> Met:
        """Meets all ranks over one operation, and makes the groups anew where some are lost."""
        ready, cursors = False, {}
        problem = problem or self._refusal()
        try:
            if problem is not None:
                raise problem
            self._check_now(layout, self._now.keep)
            ready = self._targets.is_ready(layout, names)
            cursors = cursors_of(self._now.keep) if self.active else {}
        except Exception as error:  # noqa: BLE001 - the others must learn of it, not wait
            problem = of_family(error, f"the call of {op}")
        connected, places = self._engine.connected, self._worlds.kept
        renamed = tuple(sorted(names.items()))
        own = Call(op, str(layout), self._completed, ready, connected, cursors, renamed, places)
        met = self._calls.meet(replace(own, dated=self._dated), problem)
        self._reconnect(met)
        return met

    def _check_now(self, layout: Layout, keep: Mapping[str, Any]) -> None:
        """Raises when this rank cannot go to ``layout`` now."""
        check_target(layout, self._engine.num_ranks, keep)
        why_not = self._adapter.why_not_now(self._now.state)
        if why_not is not None:
            raise LayoutError(why_not)

    def _reconnect(self, met: Met) -> None:
        if not met.connected:
            self._targets.drop()  # its runs are bound to the connection that was lost
            self._engine.disconnect("a rank has lost its groups")
            self._engine.connect(met.name)

    def _duties(self) -> Duties:
        return Duties(
            public=self._public,
            refusal=self._refusal,
            is_ready=self._targets.is_still_ready,
            places=lambda: self._worlds.kept,
            reconnect=self._reconnect,
            prepare=self._targets.prepare,
            rehearse=self._targets.rehearse,
            switch=self._switch_attended,
            callbacks=self._callbacks,
        )

    def _switch_attended(self, asked: Call, met: Met, within: Within) -> Done:
        self._step = asked.step
        return self._switch(Layout.parse(asked.layout), dict(asked.names), met, within)

    def _switch(self, layout: Layout, names: Mapping[str, str], met: Met, within: Within) -> Done:
        """Switches; returns the report and what kept objects raised, when it was done."""
        source, epoch, ready = str(self.layout), self._now.epoch + 1, met.ready
        report = SwitchReport(source, str(layout), epoch, self._completed, prepared=ready)
        with collector_held_off():
            target = self._targets.taken(layout, names, met, within[0])
            errors = run(self._engine, self._calls, self._now, target, Telling(report, *within))
        return report, errors

    # ---- life ----------------------------------------------------------------------------------

    def start(self, layout: Layout, initialize: Initialize | None, keep: Mapping[str, Any]) -> None:
        """Builds the first world and state; called once by :func:`dynatrain.init`. Collective."""
        engine = self._engine
        engine.connect("start")
        engine.together("the first layout", lambda: self._check_now(layout, keep))
        world = self._worlds.at(layout, 0, "world/start", kept=False)
        state = begin(engine, Called(layout, world, self._build), initialize)
        self._now.install(layout, world, state)
        self._now.keep = dict(keep)

    def place_kept(self) -> None:
        """Tells the kept objects of the first world; called once by :func:`dynatrain.init`.

        Raises what the first of them raised: the session has started then.
        """
        with self._adapter.undisturbed():
            errors = self._now.move_kept()
        if errors:
            raise errors[0]

    def fingerprint(self) -> str:
        """The fingerprint of the present state, the same in every layout. Collective."""
        return str(self._ask("fingerprint"))

    def verify_replicas(self) -> list[str]:
        """One line per cell on which its owners differ; empty when replicas agree. Collective."""
        return list(self._ask("verify_replicas"))

    def _ask(self, question: str) -> Any:
        """Asks all ranks, idle ones too, something about the present state. Collective."""
        with self._public(question):
            connected = self._engine.connected
            own = Call(question, str(self.layout), self._completed, False, connected)
            met = self._calls.meet(replace(own, dated=self._dated), self._refusal())
            self._reconnect(met)
            return QUESTIONS[question](self._engine, self._now.state)

    def close(self) -> None:
        """Ends the session: its groups with their sockets and threads, and what is prepared.

        Groups and meshes of its worlds end, too: what is to be gathered of DTensors has to be
        gathered before. The present state stays, as each rank holds it; what its meshes have opened
        ends with it. Later calls that ranks make together are refused on all ranks. To be called on
        every rank; not collective.

        Raises:
            LayoutError: another call is under way, or the process was forked.
        """
        with self._caller.alone("close"):
            self.closed = True
            self._targets.drop()
            self._engine.release("the session was closed")
            self._now.close()
            self._worlds.end()

    def _refusal(self) -> LayoutError | None:
        """Why this session makes no calls any more, or None."""
        if not self.closed:
            return None
        return LayoutError(
            "session: it was closed\n"
            "  expected close() to be the last call of a session\n"
            "  nothing was moved; session.state is intact\n"
            "  call dynatrain.init again for another session"
        )
