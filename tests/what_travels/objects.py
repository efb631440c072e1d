"""What a script has beside model and optimizer: loaders, counters, streams."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dynatrain import ElasticLoader, ElasticSampler, TrainState
from what_travels.trial import Case, descend, net, sgd, train


class Noisy(Dataset[torch.Tensor]):
    """Samples with noise of the default stream."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((3,), float(index)) + torch.rand(3, device="cpu")


def from_loader(state: TrainState, keep: dict[str, Any], step: int) -> None:
    """A step on the batch that the kept loader gives."""
    del step
    batch = next(keep["data"])
    descend(state, lambda: state.model(batch).square().mean())


def loading(num_workers: int) -> Case:
    """A case for the library's loader."""

    def keep() -> dict[str, Any]:
        sampler = ElasticSampler(12, 4, seed=3)
        return {"data": ElasticLoader(Noisy(), sampler, num_workers=num_workers)}

    def end(state: TrainState, keep: dict[str, Any]) -> object:
        del state
        stands = keep["data"].state_dict()
        keep["data"].load_state_dict(stands)  # ends its workers: a collector waits 5 s for each
        return stands

    return Case(plain, from_loader, keep, end)


def plain() -> TrainState:
    """A model and its optimizer."""
    module = net()
    return TrainState(module, sgd(module))


class Reader:
    """A loader with workers that knows where it stands, as StatefulDataLoader does."""

    def __init__(self) -> None:
        self.position = 0
        self._batches: Iterator[torch.Tensor] | None = None

    def __next__(self) -> torch.Tensor:
        if self._batches is None:
            samples = torch.arange(72.0).reshape(24, 3)
            own = torch.Generator(device="cpu").manual_seed(0)
            loader = iter(DataLoader(samples, 4, num_workers=1, generator=own))
            self._batches = islice(loader, self.position, None)
        self.position += 1
        return next(self._batches)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.position = state_dict["position"]

    def end(self) -> None:
        """Ends its workers: a collector waits 5 s for each."""
        self._batches = None


def reading(**options: Any) -> Case:
    """A case for a loader that is an extra."""

    def build() -> TrainState:
        module = net()
        return TrainState(module, sgd(module), extra={"data": Reader()}, **options)

    def step(state: TrainState, keep: dict[str, Any], number: int) -> None:
        batch = next(state.extra["data"])  # type: ignore[call-overload]
        descend(state, lambda: state.model(batch).square().mean())

    return Case(build, step, more=lambda state, keep: state.extra["data"].end())  # type: ignore[attr-defined]


def drawing(draw: Callable[[], float]) -> Case:
    """A case for a random stream of the process."""

    def step(state: TrainState, keep: dict[str, Any], number: int) -> None:
        inputs = torch.full((5, 3), draw())
        descend(state, lambda: state.model(inputs).square().mean())

    return Case(plain, step)


class Anything(dict[str, Any]):
    """An extra of whatever it is given."""

    def state_dict(self) -> dict[str, Any]:
        return dict(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.clear()
        self.update(state_dict)


def holding(make: Callable[[], Any]) -> Case:
    """A case for an extra that holds something."""

    def build() -> TrainState:
        module = net()
        return TrainState(module, sgd(module), extra={"odd": Anything(value=make())})

    return Case(build)


def once() -> Case:
    """A case for a build that hands the same state over twice."""
    made: list[TrainState] = []

    def build() -> TrainState:
        if not made:
            made.append(plain())
        return made[0]

    def step(state: TrainState, keep: dict[str, Any], number: int) -> None:
        train(state, keep, number)
        if number == 5:
            made.clear()

    return Case(build, step)


def becoming(other: Callable[[Any], torch.optim.Optimizer]) -> Case:
    """A case for a build that makes another optimizer at the switch; init calls it twice."""
    calls: list[int] = []

    def build() -> TrainState:
        calls.append(1)
        module = net()
        kind = torch.optim.AdamW if len(calls) < 5 else other
        return TrainState(module, kind(module.parameters()))

    return Case(build)


CASES = {
    "`ElasticLoader`, kept": loading(0),
    "`ElasticLoader` with 2 workers, kept": loading(2),
    "a loader with workers and `state_dict` as extra": reading(),
    "the same, named in `per_rank`": reading(per_rank=["data"]),
    "numbers, texts, dates in an extra": holding(lambda: {"n": 1, "text": "a", "nan": 0.5}),
    "arrays and tensors in an extra": holding(
        lambda: [np.arange(3), torch.arange(3, device="cpu")]
    ),
    "functions in an extra": holding(lambda: lambda: 0),
    "Python's random stream": drawing(random.random),
    "numpy's random stream": drawing(lambda: float(np.random.rand())),
    "torch's random stream": drawing(lambda: torch.rand(()).item()),
    "a `build` that returns the same state again": once(),
    "another class of optimizer in the target": becoming(torch.optim.Adamax),
}
