"""A switch on trial: everything that may refuse it, and nothing that moves or takes memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from dynatrain._errors import LayoutError
from dynatrain.collector import collector_held_off
from dynatrain.generation.engine import Engine
from dynatrain.switch.blueprint import draw
from dynatrain.switch.budget import check_budget
from dynatrain.switch.called import Called
from dynatrain.switch.clock import Clock
from dynatrain.switch.questions import check_replicas
from dynatrain.switch.route import Route, staging_of
from dynatrain.switch.values import check_values, publish_values
from dynatrain.train_state import TrainState


@dataclass(frozen=True)
class Trial:
    """What a trial goes by besides what is called for.

    Attributes:
        kept: the states of kept objects that the switch would send to ranks that join.
        verify: what is compared before the switch; see ``dynatrain.init``.
        built: what build has made on meta for it already, if it has.
        has_budget: whether it may take what ``memory_budget_bytes`` says, and no more.
    """

    kept: Callable[[], Mapping[str, object]] = dict
    verify: Collection[str] = ()
    built: TrainState | None = None
    has_budget: bool = True


def rehearse(engine: Engine, state: TrainState | None, called: Called, trial: Trial) -> int:
    """Builds and plans a target, holds names, slots, values and budget against it. Collective.

    Args:
        engine: of the job.
        state: the present state of this rank, None when it idles.
        called: the switch that is tried.
        trial: what it goes by.

    Returns:
        Bytes beside the source that the switch takes on the rank that needs most.

    Raises:
        LayoutError, DeviceError, BudgetError: what the switch would raise; the same on all ranks.
    """
    blueprint = draw(engine, state, called, Clock(engine.rank), trial.built)

    def complete() -> int:
        source, target = blueprint.source.inventory, blueprint.target.inventory
        if source is not None:
            _check_memory(source.missing_bytes(()))
        if target is not None:
            engine.adapter.check_complete(target)
        staging = staging_of(map(Route, blueprint.by_lane, blueprint.schedules()))
        needed = blueprint.missing_bytes(engine) + staging
        if trial.has_budget:
            check_budget(engine.rank, needed, engine.options)
        return needed

    try:
        needed: int = engine.joined("building the target", complete, _most)
        if "replicas" in trial.verify:
            check_replicas(engine, blueprint.source_map, blueprint.source)
        publications = publish_values(engine, blueprint.source, called.source, trial.kept)
        check_values(engine, blueprint.target, publications)
    finally:
        # A script may hold what its build has made: it is no leftover of the next one.
        tried, inventory = blueprint.target.state, blueprint.source.inventory
        engine.adapter.retire(tried, inventory, f"{called.layout} on trial")
    return needed


def _most(needed: list[int]) -> int:
    return max(needed)


def _check_memory(size_bytes: int) -> None:
    """Refuses a present state without memory: a session would train it and nobody would know."""
    if size_bytes:
        raise LayoutError(
            f"session: tensors of {size_bytes} bytes of the state have no memory\n"
            "  expected build to make everything in every call: some run under the meta device\n"
            "  no switch was begun\n"
            "  keep no model, and no part of one, from one call of build to the next"
        )


def check_again(first: TrainState | None, second: TrainState | None) -> None:
    """Refuses a build that returned one state twice: a switch would replace it by itself."""
    if first is not None and first is second:
        raise LayoutError(
            "session: build returned the same TrainState for two calls\n"
            "  expected a new one for every call: a switch builds the target beside the source\n"
            "  no switch was begun\n"
            "  make model, optimizer and TrainState inside build, and keep none between calls"
        )


@contextmanager
def leaving_nothing() -> Iterator[None]:
    """Frees what a rehearsal inside has built: modules and their hooks refer to each other.

    The collector is held off, so that all of it is young and looking at the young is enough.
    """
    with collector_held_off():
        yield
    gc.collect(1)
