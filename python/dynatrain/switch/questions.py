"""What ranks can ask each other between two switches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dynatrain import _native
from dynatrain._errors import LayoutError
from dynatrain.generation.engine import Engine, Side
from dynatrain.switch.fingerprints import fingerprint_text, whole_share
from dynatrain.switch.present import Present


def fingerprint(engine: Engine, present: Present) -> str:
    """The fingerprint of the present state. Collective."""
    assert present.seats is not None
    return fingerprint_text(whole_share(engine, present.state, present.seats))


def differing_replicas(engine: Engine, present: Present) -> list[str]:
    """One line per cell on which owners differ. Collective."""
    assert present.seats is not None
    side = engine.together("reading the state", lambda: engine.read(present.state))
    return engine.differing_replicas(engine.publish_map(side, present.seats), side.table)


def check_replicas(
    engine: Engine, source_map: _native.ShardMap, source: Side, names: Sequence[str] = ()
) -> None:
    """Refuses a state of which owners differ, in named tensors or in any. Collective.

    The same on every rank.
    """
    lines = engine.differing_replicas(source_map, source.table, names)
    if lines:
        raise LayoutError(
            f"session: replicas differ in {len(lines)} cells\n  "
            + "\n  ".join(lines[:8])
            + "\n  expected all owners of a cell to hold the same\n"
            "  nothing was moved; the source state is intact\n"
            "  a switch would pick one of them; find out which rank went astray"
        )


#: What ranks can ask each other between two switches, by the name of the call.
QUESTIONS: Mapping[str, Callable[[Engine, Present], str | list[str]]] = {
    "fingerprint": fingerprint,
    "verify_replicas": differing_replicas,
}
