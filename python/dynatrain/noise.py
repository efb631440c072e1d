"""Random draws of a dataset that depend on the sample, not on the rank or worker that reads it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import Dataset

from dynatrain import _native
from dynatrain.order import EpochSample

try:
    import numpy
except ImportError:
    numpy = None  # type: ignore[assignment] # torch works without it, and so does this


class SeededItems(list[Any]):
    """The items of a batch, and what seeds the draws of whoever joins them."""

    key: str = ""


class SeededDataset(Dataset[Any]):
    """A dataset whose draws depend on (seed, epoch, sample); asked by torch's fetcher in batches.

    Its random streams are those of the process that reads: they are put back after each sample,
    which costs some 50 microseconds.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self._dataset = dataset
        self._seed = seed

    def __getitems__(self, samples: Sequence[EpochSample]) -> SeededItems:
        """The items of one batch."""
        items = SeededItems(self._item(sample) for sample in samples)
        items.key = f"{self._seed}|batch|{list(map(tuple, samples))}"
        return items

    def _item(self, sample: EpochSample) -> Any:
        with seeded(f"{self._seed}|{sample.epoch}|{sample.number}"):
            batched = getattr(self._dataset, "__getitems__", None)
            if batched is not None:
                return batched([sample.number])[0]
            return self._dataset[sample.number]


class SeededCollate:
    """A collate function whose draws depend on the samples of its batch."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, items: list[Any]) -> Any:
        """Joins the items, which it sees as a plain list."""
        with seeded(getattr(items, "key", "")):
            return self._collate(list(items))


@contextmanager
def seeded(key: str) -> Iterator[None]:
    """Within it, the default streams of the host begin anew from ``key``; then they go on."""
    python, host = random.getstate(), torch.get_rng_state()
    numbers = None if numpy is None else numpy.random.get_state()
    try:
        random.seed(_seed("python", key))
        torch.default_generator.manual_seed(_seed("torch.cpu", key))
        if numpy is not None:
            numpy.random.seed(_seed("numpy", key) % 2**32)
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(host)
        if numpy is not None and numbers is not None:
            numpy.random.set_state(numbers)


def _seed(stream: str, key: str) -> int:
    return _native.hash64(f"{stream}|{key}".encode())
