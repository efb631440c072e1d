"""What ranks can ask each other between two switches."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dynatrain.adapters.port import Values
from dynatrain.engine import Engine, Share, fingerprint_of
from dynatrain.train_state import TrainState


def fingerprint(
    engine: Engine, state: TrainState | None, names: Mapping[str, str] | None = None
) -> str:
    """The fingerprint of the present state. Collective.

    What is tied counts under each of its names, in every layout: stages of a pipeline hold copies,
    and nothing there says that they are tied elsewhere.

    Args:
        engine: of the job.
        state: of this rank, None when it idles.
        names: new FQNs, by the FQN that ``state`` has, where they differ.
    """

    def ties() -> frozenset[str]:
        return frozenset() if state is None else engine.adapter.ties(state, names)

    apart = frozenset[str]().union(*engine.gathered("reading the state", ties))
    side = engine.together("reading the state", lambda: engine.read(state, names, apart))
    shard_map = engine.publish_map(side)

    def share() -> Share:
        held = side.inventory
        values = Values() if held is None else engine.adapter.values(held)
        return engine.share_of_fingerprint(shard_map, side, values)

    return fingerprint_of(engine.gathered("the fingerprint", share))


def differing_replicas(engine: Engine, state: TrainState | None) -> list[str]:
    """One line per cell on which owners differ. Collective."""
    side = engine.together("reading the state", lambda: engine.read(state))
    return engine.differing_replicas(engine.publish_map(side), side.table)


#: What ranks can ask each other between two switches, by the name of the call.
QUESTIONS: Mapping[str, Callable[[Engine, TrainState | None], str | list[str]]] = {
    "fingerprint": fingerprint,
    "verify_replicas": differing_replicas,
}
