"""The random streams of the process, and how they go on in another layout."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch

from dynatrain import _native, words

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
            lambda: words.encode(_numpy_state(np.random.get_state())),
            lambda state: np.random.set_state(_numpy_state_of(words.decode(state))),
            lambda seed: np.random.seed(seed % 2**32),
        )
    }


def _numpy_state(state: Any) -> tuple[Any, ...]:
    """Numpy's state in plain values."""
    name, keys, *rest = state
    return (name, keys.tobytes(), *rest)


def _numpy_state_of(plain: tuple[Any, ...]) -> tuple[Any, ...]:
    import numpy as np

    name, keys, *rest = plain
    return (name, np.frombuffer(keys, dtype=np.uint32), *rest)


def _python_state(state: tuple[Any, ...]) -> tuple[Any, ...]:
    """Python's state in few plain values."""
    version, numbers, following = state
    return version, array("Q", numbers).tobytes(), following


def _python_state_of(plain: tuple[Any, ...]) -> tuple[Any, ...]:
    version, numbers, following = plain
    return version, tuple(array("Q", numbers)), following


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
            lambda: words.encode(_python_state(random.getstate())),
            lambda state: random.setstate(_python_state_of(words.decode(state))),
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


def plain_streams(device: torch.device) -> list[tuple[Callable[[], Any], Callable[[Any], None]]]:
    """Getter and setter of every random stream, of states that stay in this process."""
    found: list[tuple[Callable[[], Any], Callable[[Any], None]]] = [
        (random.getstate, random.setstate),
        (torch.get_rng_state, torch.set_rng_state),
    ]
    with suppress(ImportError):
        import numpy as np

        found.append((np.random.get_state, np.random.set_state))
    if device.type != "cpu":
        module = torch.get_device_module(device.type)
        found.append(
            (partial(module.get_rng_state, device), lambda it: module.set_rng_state(it, device))
        )
    return found


def read_streams(device: torch.device) -> dict[str, bytes]:
    """The present state of every random stream."""
    return {name: get() for name, (get, _, _) in random_streams(device).items()}


def continue_streams(
    device: torch.device,
    states: Mapping[str, Sequence[bytes | None]],
    seed: int,
    places: Mapping[str, int],
    step: int,
) -> list[str]:
    """Continues every random stream in the target by the rule of continuity.

    A stream whose state is the same on all source ranks is independent of the layout and goes on.
    Any other one belongs to a coordinate: it is seeded anew from (seed, stream, place, step).

    Args:
        device: device of this rank.
        states: what the ranks of the source read, by stream, each distinct answer once; where they
            differ, those of other ranks are None.
        seed: the session's seed.
        places: by stream, the rank of the target whose stream this one has: its own, or that of the
            first of those that differ from it in tp alone, which are to draw the same.
        step: completed steps.

    Returns:
        The names of the streams that were derived anew.
    """
    derived = []
    for name, (_, put, reseed) in random_streams(device).items():
        distinct = states.get(name, ())
        if len(distinct) == 1 and distinct[0] is not None:
            put(distinct[0])
        elif distinct:
            reseed(_native.hash64(f"{seed}|{name}|{places[name]}|{step}".encode()))
            derived.append(name)
    return derived
