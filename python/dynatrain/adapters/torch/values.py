"""Training state that is no tensor: param groups, optimizer values, schedulers, scalers, extras."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dynatrain._errors import LayoutError
from dynatrain.adapters.port import Published
from dynatrain.adapters.torch.inventory import LiveTensors, iter_optimizer_params

#: Names of shared values beside those of the Stateful objects.
GROUPS, OPTIMIZER_VALUES = "param_groups", "optimizer.state"
#: Of one optimizer: each group's options without ``params``, and the FQNs of its parameters.
_Groups = list[tuple[dict[str, Any], list[str]]]
#: Where a group is: number of the optimizer, number of the group.
_Place = tuple[int, int]


def read_shared(live: LiveTensors) -> dict[str, Any]:
    """Reads what a state depends on besides tensors, by name."""
    groups: list[_Groups] = [
        [
            (
                {key: value for key, value in group.items() if key != "params"},
                [live.fqn(param) for param in group["params"]],
            )
            for group in optimizer.param_groups
        ]
        for optimizer in live.state.optimizers
    ]
    stateful = {name: item.state_dict() for name, item in live.state.stateful_objects()}
    return {**stateful, GROUPS: groups, OPTIMIZER_VALUES: dict(live.values)}


def check_shared(live: LiveTensors, published: Published) -> None:
    """Holds what the source published against the state of ``live``; changes nothing.

    Raises:
        LayoutError: the options of one target group differ between its parameters' source groups,
            or a Stateful of the target has no state in the source.
    """
    for name, _ in live.state.stateful_objects():
        if name not in published.shared:
            raise LayoutError(
                f"adapters: the target has {name!r}, of which the source has no state\n"
                f"  the source has {sorted(set(published.shared) - {GROUPS, OPTIMIZER_VALUES})}\n"
                "  nothing was moved; the source state is intact\n"
                "  return the same scheduler, scaler and extras from build for every layout"
            )
    options = _options_by_fqn(published)
    for place, _, fqns in _target_groups(live):
        _check_common(options, fqns, place)


def take_shared(live: LiveTensors, published: Published) -> None:
    """Puts what the source published into the state of ``live``, after :func:`check_shared`."""
    # The scheduler goes first: some write into the optimizer while they load.
    for name, item in live.state.stateful_objects():
        item.load_state_dict(published.shared[name][0].value)
    options = _options_by_fqn(published)
    for place, group, fqns in _target_groups(live):
        known = next((options[fqn] for fqn in fqns if fqn in options), None)
        group.update(_options_by_place(published, place) if known is None else known)
    for optimizer, param in iter_optimizer_params(live.state):
        for part in published.shared.get(OPTIMIZER_VALUES, ()):
            slots = part.value.get(live.fqn(param))
            if slots:
                optimizer.state[param].update(slots)


def _target_groups(live: LiveTensors) -> Iterator[tuple[_Place, dict[str, Any], list[str]]]:
    """Every param group with its place and the FQNs of its parameters."""
    for index, optimizer in enumerate(live.state.optimizers):
        for number, group in enumerate(optimizer.param_groups):
            yield (index, number), group, [live.fqn(param) for param in group["params"]]


def _published_groups(published: Published) -> list[list[_Groups]]:
    return [part.value for part in published.shared.get(GROUPS, ())]


def _options_by_fqn(published: Published) -> dict[str, dict[str, Any]]:
    return {
        fqn: options
        for optimizers in _published_groups(published)
        for groups in optimizers
        for options, fqns in groups
        for fqn in fqns
    }


def _check_common(
    options: Mapping[str, dict[str, Any]], fqns: Sequence[str], place: _Place
) -> None:
    known = [fqn for fqn in fqns if fqn in options]
    for fqn in known[1:]:
        first = options[known[0]]
        if options[fqn] is not first and not _same(options[fqn], first):
            raise LayoutError(
                f"adapters: parameters {known[0]!r} and {fqn!r} share a group of the target's "
                f"optimizer {place[0]}, but had different options in the source\n"
                f"  {first}\n  {options[fqn]}\n"
                "  nothing was moved; the source state is intact\n"
                "  make the same param groups in build for every layout"
            )


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return pickle.dumps(sorted(a.items())) == pickle.dumps(sorted(b.items()))


def _options_by_place(published: Published, place: _Place) -> dict[str, Any]:
    index, number = place
    for optimizers in _published_groups(published):
        if index < len(optimizers) and number < len(optimizers[index]):
            return optimizers[index][number][0]
    return {}
