"""The first world and state of a session, and the trial that shows what ``build`` cannot do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from dynatrain import by_rank
from dynatrain.generation.engine import Engine
from dynatrain.generation.world import World
from dynatrain.switch.called import Called, build_on_meta
from dynatrain.switch.readings import in_phase
from dynatrain.switch.rehearsal import Trial, check_again, leaving_nothing, rehearse
from dynatrain.train_state import TrainState

_log = logging.getLogger("dynatrain.session")
Initialize = Callable[[TrainState, World], None]


def begin(engine: Engine, called: Called, initialize: Initialize | None) -> TrainState | None:
    """Builds the first state of this rank, None where it idles. Collective.

    The trial on meta comes first: what a build leaves in the script, such as ``self.model``, is
    then what the session trains. The state is held against it as a switch would, and it is dropped.

    Args:
        engine: of the job.
        called: the first layout, as if it were a target.
        initialize: fills a state that is built on meta; None builds it for real.

    Raises:
        LayoutError: build or ``initialize`` raised, or a switch could not build again;
            the same kind on every rank.
    """
    world = called.world
    # A build may keep the world that it is given; the other one is to train on.
    own = None if world is None else world.at_epoch(world.epoch)
    with leaving_nothing():
        return _begin(engine, called, replace(called, world=own), initialize)


def _begin(
    engine: Engine, called: Called, trial: Called, initialize: Initialize | None
) -> TrainState | None:
    dry = engine.together("build", lambda: build_on_meta(engine, trial))
    state = engine.together("the first build", lambda: _first(engine, called, initialize))
    engine.together("build", lambda: check_again(dry, state))
    with trial.entered():  # the state to read is one of this world, which is not the default yet
        rehearse(engine, state, trial, Trial(built=dry, has_budget=False))
    _warn_of_untrained(engine, state)
    return state


def _warn_of_untrained(engine: Engine, state: TrainState | None) -> None:
    """Says once what no optimizer of the state has. Collective: one exchange."""
    adapter = engine.adapter
    lines = engine.joined(
        "the first state",
        lambda: "" if state is None else adapter.untrained(adapter.inventory(state)),
        lambda said: by_rank.lines({rank: text for rank, text in enumerate(said) if text}),
    )
    if lines and engine.rank == 0:
        _log.warning(
            "no optimizer of the state has\n%s\n"
            "  expected every optimizer that trains them in TrainState(optimizer=...): one that "
            "only the script holds begins anew at a switch\n"
            "  the session has started\n"
            "  let build return it, several as a list; what is not trained takes "
            "requires_grad_(False), and what the script trains without an optimizer goes on as it "
            "is",
            lines,
        )


def _first(engine: Engine, called: Called, initialize: Initialize | None) -> TrainState | None:
    world = called.world
    if world is None:
        return None
    with world.as_torch_sees_it():
        if initialize is None:
            return engine.adapter.build(lambda: called.build(world))
        state = build_on_meta(engine, called)
        if state is not None:
            engine.adapter.materialize(engine.adapter.inventory(state), None, ())
            in_phase("initialize", partial(initialize, state, world))
            engine.adapter.check_begun(state)
        return state
