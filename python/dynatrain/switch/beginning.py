"""The first world and state of a session, and the trial that shows what ``build`` cannot do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dynatrain.generation.engine import Engine
from dynatrain.generation.world import World
from dynatrain.switch.rehearsal import Trial, check_again, leaving_nothing, rehearse
from dynatrain.switch.transition import Request, build_on_meta
from dynatrain.train_state import TrainState

Initialize = Callable[[TrainState, World], None]


def begin(engine: Engine, request: Request, initialize: Initialize | None) -> TrainState | None:
    """Builds the first state of this rank, None where it idles. Collective.

    The trial on meta comes first: what a build leaves in the script, such as ``self.model``, is
    then what the session trains. The state is held against it as a switch would, and it is dropped.

    Args:
        engine: of the job.
        request: the first layout, as if it were a target.
        initialize: fills a state that is built on meta; None builds it for real.

    Raises:
        LayoutError, BudgetError: build or ``initialize`` raised, or a switch could not build again;
            the same kind on every rank.
    """
    world = request.world
    place = None if world is None else world.at_epoch(0)  # build may keep it; ours is to train on
    with leaving_nothing():
        return _begin(engine, request, replace(request, world=place), initialize)


def _begin(
    engine: Engine, request: Request, trial: Request, initialize: Initialize | None
) -> TrainState | None:
    dry = engine.together("build", lambda: build_on_meta(engine, trial))
    state = engine.together("the first build", lambda: _first(engine, request, initialize))
    engine.together("build", lambda: check_again(dry, state))
    rehearse(engine, state, trial, Trial(built=dry))
    return state


def _first(engine: Engine, request: Request, initialize: Initialize | None) -> TrainState | None:
    world = request.world
    if world is None:
        return None
    if initialize is None:
        return engine.adapter.build(lambda: request.build(world))
    state = build_on_meta(engine, request)
    if state is not None:
        engine.adapter.materialize(engine.adapter.inventory(state), None, ())
        initialize(state, world)
        engine.adapter.check_begun(state)
    return state
