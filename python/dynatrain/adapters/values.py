"""Training state that is no tensor: param groups, schedulers, scalers, extras, random streams."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dynatrain import _native
from dynatrain._errors import LayoutError
from dynatrain.adapters.tensors import LiveTensors, iter_optimizer_params
from dynatrain.train_state import TrainState

_Getter = Callable[[], bytes]
_Setter = Callable[[bytes], None]
_Seeder = Callable[[int], None]


def _numpy_streams() -> dict[str, tuple[_Getter, _Setter, _Seeder]]:
    try:
        import numpy as np
    except ImportError:
        return {}
    return {
        "numpy": (
            lambda: pickle.dumps(np.random.get_state()),
            lambda state: np.random.set_state(pickle.loads(state)),
            lambda seed: np.random.seed(seed % 2**32),
        )
    }


def _device_streams(device: torch.device) -> dict[str, tuple[_Getter, _Setter, _Seeder]]:
    if device.type == "cpu":
        return {}
    module = torch.get_device_module(device.type)
    return {
        f"torch.{device.type}": (
            lambda: bytes(module.get_rng_state(device).numpy().tobytes()),
            lambda state: module.set_rng_state(_as_byte_tensor(state), device),
            lambda seed: module.manual_seed(seed),
        )
    }


def _as_byte_tensor(state: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)


def _seed_torch_cpu(seed: int) -> None:
    torch.default_generator.manual_seed(seed)


def random_streams(device: torch.device) -> dict[str, tuple[_Getter, _Setter, _Seeder]]:
    """Getter, setter and seeder of every random stream of the process, by name."""
    return {
        "python": (
            lambda: pickle.dumps(random.getstate()),
            lambda state: random.setstate(pickle.loads(state)),
            random.seed,
        ),
        "torch.cpu": (
            lambda: bytes(torch.get_rng_state().numpy().tobytes()),
            lambda state: torch.set_rng_state(_as_byte_tensor(state)),
            _seed_torch_cpu,
        ),
        **_numpy_streams(),
        **_device_streams(device),
    }


def read_streams(device: torch.device) -> dict[str, bytes]:
    """The present state of every random stream."""
    return {name: get() for name, (get, _, _) in random_streams(device).items()}


@dataclass
class Values:
    """What one rank hands over besides tensors. Equal on ranks that hold the same."""

    #: per optimizer and group: options without ``params``, and the FQNs of its parameters
    groups: list[list[tuple[dict[str, Any], list[str]]]] = field(default_factory=list)
    #: state dicts of scheduler, scaler and extras
    stateful: dict[str, Any] = field(default_factory=dict)
    #: optimizer state that is no tensor, by FQN and slot
    optimizer_values: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: optimizer slots that live on the host whatever the parameter's device
    host_slots: set[str] = field(default_factory=set)
    #: states of the random streams, by name
    streams: dict[str, bytes] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Pickles; raises LayoutError naming the part that cannot be pickled."""
        try:
            return pickle.dumps(self)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise LayoutError(
                f"adapters: the state of {self._culprit()} cannot be pickled: {error}\n"
                "  nothing was moved; the source state is intact\n"
                "  return plain data from its state_dict()"
            ) from error

    @staticmethod
    def decode(blob: bytes) -> Values:
        """Reads what encode() made."""
        values = pickle.loads(blob)
        assert isinstance(values, Values)
        return values

    def _culprit(self) -> str:
        parts = {"param_groups": self.groups, "optimizer.state": self.optimizer_values}
        for name, part in {**self.stateful, **parts}.items():
            try:
                pickle.dumps(part)
            except (pickle.PicklingError, TypeError, AttributeError):
                return name
        return "the optimizer"


def read_values(state: TrainState, live: LiveTensors) -> Values:
    """Reads what ``state`` depends on besides tensors."""
    groups = [
        [
            (
                {key: value for key, value in group.items() if key != "params"},
                [live.fqn(param) for param in group["params"]],
            )
            for group in optimizer.param_groups
        ]
        for optimizer in state.optimizers
    ]
    stateful = {name: item.state_dict() for name, item in state.stateful_objects()}
    return Values(groups, stateful, dict(live.values), set(live.host_slots))


def write_values(state: TrainState, live: LiveTensors, published: Sequence[Values]) -> None:
    """Puts what the source published into a target state.

    Raises:
        LayoutError: the options of one target group differ between its parameters' source groups,
            or a Stateful of the target has no state in the source.
    """
    # The scheduler goes first: some write into the optimizer while they load.
    _load_stateful(state, published)
    options = _options_by_fqn(published)
    for index, optimizer in enumerate(state.optimizers):
        for number, group in enumerate(optimizer.param_groups):
            fqns = [live.fqn(param) for param in group["params"]]
            group.update(_common_options(options, fqns, published, (index, number)))
    for optimizer, param in iter_optimizer_params(state):
        for values in published:
            slots = values.optimizer_values.get(live.fqn(param))
            if slots:
                optimizer.state[param].update(slots)


def _options_by_fqn(published: Sequence[Values]) -> dict[str, dict[str, Any]]:
    return {
        fqn: options
        for values in published
        for groups in values.groups
        for options, fqns in groups
        for fqn in fqns
    }


def _common_options(
    options: Mapping[str, dict[str, Any]],
    fqns: Sequence[str],
    published: Sequence[Values],
    place: tuple[int, int],
) -> dict[str, Any]:
    known = [fqn for fqn in fqns if fqn in options]
    if not known:
        return _options_by_place(published, place)
    first = options[known[0]]
    for fqn in known[1:]:
        if options[fqn] is not first and not _same(options[fqn], first):
            raise LayoutError(
                f"adapters: parameters {known[0]!r} and {fqn!r} share a group of the target's "
                f"optimizer {place[0]}, but had different options in the source\n"
                f"  {first}\n  {options[fqn]}\n"
                "  nothing was moved; the source state is intact\n"
                "  make the same param groups in build for every layout"
            )
    return first


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return pickle.dumps(sorted(a.items())) == pickle.dumps(sorted(b.items()))


def _options_by_place(published: Sequence[Values], place: tuple[int, int]) -> dict[str, Any]:
    index, number = place
    for values in published:
        if index < len(values.groups) and number < len(values.groups[index]):
            return values.groups[index][number][0]
    return {}


def _load_stateful(state: TrainState, published: Sequence[Values]) -> None:
    for name, item in state.stateful_objects():
        source = next((v.stateful[name] for v in published if name in v.stateful), None)
        if source is None:
            known = sorted({key for values in published for key in values.stateful})
            raise LayoutError(
                f"adapters: the target has {name!r}, of which the source has no state\n"
                f"  the source has {known}\n"
                "  nothing was moved; the source state is intact\n"
                "  return the same scheduler, scaler and extras from build for every layout"
            )
        item.load_state_dict(source)


def continue_streams(
    device: torch.device,
    sources: Sequence[Mapping[str, bytes]],
    seed: int,
    rank: int,
    step: int,
) -> list[str]:
    """Continues every random stream in the target by the rule of continuity.

    A stream whose state is the same on all source ranks is independent of the layout and goes on.
    Any other one belongs to a coordinate: it is seeded anew from (seed, stream, target rank, step).

    Args:
        device: device of this rank.
        sources: what the ranks of the source read, each distinct answer once.
        seed: the session's seed.
        rank: this rank in the target.
        step: completed steps.

    Returns:
        The names of the streams that were derived anew.
    """
    derived = []
    for name, (_, put, reseed) in random_streams(device).items():
        states = [source[name] for source in sources if name in source]
        if not states:
            continue
        if all(state == states[0] for state in states):
            put(states[0])
        else:
            reseed(_native.hash64(f"{seed}|{name}|{rank}|{step}".encode()))
            derived.append(name)
    return derived
