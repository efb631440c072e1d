"""What ``names=`` of a switch says, held against both states: new FQNs by those of the source."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from dynatrain import _native
from dynatrain._errors import LayoutError
from dynatrain.generation.engine import Engine
from dynatrain.generation.held import Source
from dynatrain.switch.called import Called

_REST = (
    "  nothing was moved; the source state is intact\n"
    "  map FQNs that the source has to those that build gives them in the target"
)


def check_old_names(engine: Engine, state: Source, called: Called) -> None:
    """Refuses names of tensors that no rank of the source has. Collective where there are names."""
    names = called.names
    if not names:
        return
    source = engine.together("reading the state", lambda: engine.read(state))
    known = _fqns(engine.publish_map(source, called.source))
    unknown = sorted(names.keys() - known)
    if unknown:
        raise LayoutError(
            f"session: names={{{unknown[0]!r}: ...}} names no tensor of the source"
            f" ({len(unknown)} such names)\n  near it are {_near(unknown[0], known)}\n{_REST}"
        )


def check_new_names(target: _native.ShardMap, names: Mapping[str, str]) -> None:
    """Refuses new names that no tensor of the target has; the same on every rank."""
    if not names:
        return
    known = _fqns(target)
    missing = sorted(old for old, new in names.items() if new not in known)
    if missing:
        new = names[missing[0]]
        raise LayoutError(
            f"session: names={{{missing[0]!r}: {new!r}}} leads to no tensor that build makes for "
            f"the target ({len(missing)} such names)\n  near it are {_near(new, known)}\n{_REST}"
        )


def _fqns(shard_map: _native.ShardMap) -> set[str]:
    return {name.rsplit("|", 1)[0] for name in shard_map.names()}


def _near(name: str, known: Collection[str]) -> list[str]:
    return difflib.get_close_matches(name, known) or sorted(known)[:3]
