"""The session: one training job, its present world and state, and the switches between worlds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import torch
import torch.distributed as dist

from dynatrain import _torch_private
from dynatrain._errors import Error, LayoutError
from dynatrain.adapters.port import Adapter
from dynatrain.calls import Call, Calls, cursors_of, reason_to_refuse
from dynatrain.collector import collector_held_off
from dynatrain.engine import Clock, Engine, Options
from dynatrain.layout import Layout, as_layout
from dynatrain.rendezvous import Rendezvous
from dynatrain.report import SwitchReport
from dynatrain.switching import Present, Telling, run
from dynatrain.train_state import TrainState
from dynatrain.transition import Prepared, Request, prepare
from dynatrain.world import Build, Meshes, World

Initialize = Callable[[TrainState, World], None]
_log = logging.getLogger("dynatrain.session")


def _fingerprint(engine: Engine, state: TrainState | None) -> str:
    side = engine.together("reading the state", lambda: engine.read(state))
    return engine.fingerprint(engine.publish_map(side), side)


def _differing_replicas(engine: Engine, state: TrainState | None) -> list[str]:
    side = engine.together("reading the state", lambda: engine.read(state))
    return engine.differing_replicas(engine.publish_map(side), side.table)


#: What ranks can ask each other between two switches, by the name of the call.
_QUESTIONS = {"fingerprint": _fingerprint, "verify_replicas": _differing_replicas}


class Session:
    """One training job under dynatrain; made by :func:`dynatrain.init`.

    Not thread-safe: all methods belong to the training thread.
    """

    def __init__(
        self, build: Build, options: Options, device: torch.device, adapter: Adapter[Any]
    ) -> None:
        self._build = build
        self._options = options
        self._device = device
        self._adapter = adapter
        store = _torch_private.session_store(dist.get_rank())
        self._engine = Engine(options, device, store, adapter)
        self._meeting = Rendezvous(
            store, self._engine.rank, self._engine.num_ranks, options.timeout
        )
        self._calls = Calls(self._meeting, self._engine.rank)
        self._worlds: dict[Layout, World | None] = {}
        self._now = Present(options.seed)
        self._step = 0
        self._in_step = False
        self._loops = 0
        self._prepared: Prepared | None = None
        self._request: tuple[Layout, Future[SwitchReport]] | None = None
        self._callbacks: list[Callable[[SwitchReport], None]] = []

    # ---- what a script reads -------------------------------------------------------------------

    @property
    def state(self) -> TrainState:
        """The present training state; raises LayoutError on a rank that idles."""
        if self._now.state is None:
            raise self._idle("state")
        return self._now.state

    @property
    def world(self) -> World:
        """The present world; raises LayoutError on a rank that idles."""
        if self._now.world is None:
            raise self._idle("world")
        return self._now.world

    @property
    def active(self) -> bool:
        """Whether this rank takes part in the present layout."""
        return self._now.world is not None

    @property
    def layout(self) -> Layout:
        """The present layout, also known to ranks that idle."""
        assert self._now.layout is not None
        return self._now.layout

    @property
    def device(self) -> torch.device:
        """Where parameters of this rank live, also while it idles."""
        return self._device

    @property
    def step(self) -> int:
        """Completed steps of the loop, the one under way not counted."""
        return self._step

    @property
    def keep(self) -> Mapping[str, Any]:
        """The kept objects, by name."""
        return dict(self._now.keep)

    def _idle(self, what: str) -> LayoutError:
        return LayoutError(
            f"session: rank {self._engine.rank} idles in {self._now.layout} and has no {what}\n"
            "  nothing was changed\n"
            "  let session.steps() drive the loop, or ask session.active first"
        )

    # ---- the loop ------------------------------------------------------------------------------

    def steps(self, total: int) -> Iterator[int]:
        """Yields the number of every step from ``session.step`` up to ``total``.

        A requested switch runs between two steps. On a rank that idles the loop waits for the next
        switch that needs it, and ends with the loop of the others.
        """
        self._loops += 1
        ended = f"ended/{self._loops}"
        try:
            while self._await_activity(ended) and self._step < total:
                yield self._begin_step()
                self._end_step()
                self._run_request()
        finally:
            self._end_step()
            if self.active and self._engine.num_ranks > self.layout.world_size:
                self._meeting.announce(ended)

    def _await_activity(self, ended: str) -> bool:
        """Attends what others call while this rank idles; False when their loop has ended."""
        while not self.active:
            if not self._meeting.wait_called(ended):
                return False
            self._attend()
        return True

    def _begin_step(self) -> int:
        self._in_step = True
        return self._step

    def _end_step(self) -> None:
        if self._in_step:
            self._in_step = False
            self._step += 1

    @property
    def _completed(self) -> int:
        return self._step + (1 if self._in_step else 0)

    def _run_request(self) -> None:
        if self._request is None:
            return
        layout, future = self._request
        self._request = None
        try:
            future.set_result(self.switch(layout))
        except Exception as error:  # noqa: BLE001 - the future is where the caller looks
            future.set_exception(error)

    # ---- switching -----------------------------------------------------------------------------

    def request(self, layout: Layout | str) -> Future[SwitchReport]:
        """Asks for a switch at the next step boundary of :meth:`steps`.

        Every active rank must ask in the same step. The future holds the report, or the error; the
        training goes on either way.
        """
        future: Future[SwitchReport] = Future()
        if self._request is not None:
            raise LayoutError(
                f"session: a switch to {self._request[0]} is already requested\n"
                "  nothing was changed\n  wait for its future"
            )
        self._request = (as_layout(layout), future)
        return future

    def on_switch(self, callback: Callable[[SwitchReport], None]) -> None:
        """Calls ``callback(report)`` on this rank after every switch."""
        self._callbacks.append(callback)

    def prepare(self, layout: Layout | str, *, names: Mapping[str, str] | None = None) -> None:
        """Builds and plans ``layout`` ahead, so that a switch to it only moves bytes. Collective.

        The target's memory is held from now on. One layout is prepared at a time; preparing
        another one drops the former.
        """
        target = as_layout(layout)
        self._call("prepare", target)
        self._prepare(target, names)

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
            TransportError: a rank is missing or failed; the state is unchanged.
            What a kept object's ``on_world`` or a callback raised: the switch is done then, on this
            rank as on all others.
        """
        target = as_layout(layout)
        clock = Clock(self._engine.rank)
        with clock.phase("meet"):
            ready = self._call("switch", target)
        return self._switch(target, names, clock, ready)

    def _call(self, op: str, layout: Layout) -> bool:
        """Meets all ranks over one operation; returns whether all hold ``layout`` prepared."""
        problem = self._why_not(layout, self._now.keep)
        ready = False
        prepared = self._prepared
        if problem is None and prepared is not None and prepared.request.layout == layout:
            try:
                ready = prepared.refresh(self._engine, self._now.state)
            except Error as error:  # the others must learn of it, not wait for this rank
                problem = str(error)
        cursors = cursors_of(self._now.keep) if self.active else {}
        connected = self._engine.connected
        own = Call(op, str(layout), self._completed, ready, connected, problem, cursors)
        calls = self._calls.meet(own)
        self._reconnect(calls)
        return self._all_ready(calls)

    def _why_not(self, layout: Layout, keep: Mapping[str, Any]) -> str | None:
        """The message of a refusal to go to ``layout`` now, or None."""
        problem = reason_to_refuse(layout, self._engine.num_ranks, keep)
        return self._adapter.why_not_now(self._now.state) if problem is None else problem

    def _reconnect(self, calls: Sequence[Call]) -> None:
        if not all(call.connected for call in calls):
            self._prepared = None  # its runs are bound to the connection that was lost
            self._engine.disconnect("a rank has lost its groups")
            self._engine.connect()

    @staticmethod
    def _all_ready(calls: Sequence[Call]) -> bool:
        return all(call.ready and call.connected for call in calls)

    def _attend(self) -> None:
        """An idle rank's part in an operation that others called."""
        ready = self._prepared is not None and self._prepared.refresh(self._engine, None)
        clock = Clock(self._engine.rank)
        try:
            calls = self._calls.meet(Call("attend", "", 0, ready, self._engine.connected, None))
            self._reconnect(calls)
            asked = next(call for call in calls if call.operation != "attend")
            if asked.operation in _QUESTIONS:
                _QUESTIONS[asked.operation](self._engine, None)
                return
            layout = Layout.parse(asked.layout)
            if asked.operation == "prepare":
                self._prepare(layout, None)
                return
            self._step = asked.step
            self._switch(layout, None, clock, self._all_ready(calls))
        except Error as error:
            _log.warning("an idle rank saw a switch fail: %s", error)

    def _prepare(self, layout: Layout, names: Mapping[str, str] | None) -> Prepared:
        self._prepared = None
        clock = Clock(self._engine.rank)
        with clock.phase("world"):
            world = self._engine.together("making the world", lambda: self._world_of(layout))
        place = None if world is None else world.at_epoch(self._now.epoch + 1)
        request = Request(layout, place, self._build, dict(names or {}))
        self._prepared = prepare(self._engine, self._now.state, request, clock)
        return self._prepared

    def _world_of(self, layout: Layout) -> World | None:
        """This rank's place in ``layout``; groups are made once per layout and kept."""
        if layout not in self._worlds:
            meshes = Meshes(layout, self._device.type)
            inside = self._engine.rank < layout.world_size
            timeout = self._options.timeout
            world = (
                World(layout, self._engine.rank, self._device, meshes, timeout) if inside else None
            )
            if world is not None:
                world.group(
                    *layout.order
                )  # what most scripts reduce over; made before it is needed
            self._worlds[layout] = world
        return self._worlds[layout]

    def _switch(
        self, layout: Layout, names: Mapping[str, str] | None, clock: Clock, ready: bool
    ) -> SwitchReport:
        report = SwitchReport(
            str(self.layout), str(layout), self._now.epoch + 1, self._completed, prepared=ready
        )
        with collector_held_off():
            prepared = self._prepared
            if not ready or prepared is None:
                began = clock.now()
                prepared = self._prepare(layout, names)
                clock.adopt(prepared.spans, began)
            self._prepared = None  # a target that was refused is built anew by the next call
            errors = run(self._engine, self._calls, self._now, prepared, Telling(report, clock))
        for callback in self._callbacks:
            try:
                callback(report)
            except Exception as error:  # noqa: BLE001 - the user's code, after the switch
                errors.append(error)
        if errors:
            _log.error("the switch to %s is done, but %d callbacks raised", layout, len(errors))
            raise errors[0]
        return report

    # ---- life ----------------------------------------------------------------------------------

    def start(
        self, layout: Layout, initialize: Initialize | None, keep: Mapping[str, Any] | None
    ) -> None:
        """Builds the first world and state; called once by :func:`dynatrain.init`."""
        problem = self._why_not(layout, keep or {})
        if problem is not None:
            raise LayoutError(problem)
        made = self._world_of(layout)
        world = None if made is None else made.at_epoch(0)
        self._engine.connect()
        state = None if world is None else self._first_state(world, initialize)
        self._now.install(layout, world, state)
        self._now.keep = dict(keep or {})

    def place_kept(self) -> None:
        """Tells the kept objects of the first world; called once by :func:`dynatrain.init`."""
        self._now.move_kept()

    def _first_state(self, world: World, initialize: Initialize | None) -> TrainState:
        if initialize is None:
            return self._adapter.build(lambda: self._build(world))
        state = self._adapter.build_on_meta(lambda: self._build(world), str(world))
        self._adapter.materialize(self._adapter.inventory(state), None, ())
        initialize(state, world)
        return state

    def fingerprint(self) -> str:
        """The fingerprint of the present state, the same in every layout. Collective."""
        return str(self._ask("fingerprint"))

    def verify_replicas(self) -> list[str]:
        """One line per cell on which its owners differ; empty when replicas agree. Collective."""
        return list(self._ask("verify_replicas"))

    def _ask(self, question: str) -> Any:
        """Asks all ranks, idle ones too, something about the present state. Collective."""
        connected = self._engine.connected
        own = Call(question, str(self.layout), self._completed, False, connected, None)
        self._reconnect(self._calls.meet(own))
        return _QUESTIONS[question](self._engine, self._now.state)

    def close(self) -> None:
        """Ends the session's communicator; the present state stays usable."""
        self._engine.disconnect("the session was closed")
