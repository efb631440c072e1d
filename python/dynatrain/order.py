"""One order of samples without end, which knows no ranks and no layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch


class EpochSample(NamedTuple):
    """A sample's number, and the pass over the dataset in which it is read."""

    epoch: int
    number: int


@dataclass(frozen=True)
class Order:
    """Epochs one behind the other, each in an order of its own; places count from 0 on.

    Attributes:
        num_samples: length of the dataset.
        num_used: samples that one epoch reads, at most ``num_samples``.
        seed: of the permutations.
        shuffle: whether an epoch is a permutation by (seed, epoch), or 0, 1, 2, ... .
    """

    num_samples: int
    num_used: int
    seed: int
    shuffle: bool

    def epoch_of(self, place: int) -> int:
        """The epoch that a place belongs to."""
        return place // self.num_used

    def of_epoch(self, epoch: int) -> torch.Tensor:
        """All samples as this epoch orders them."""
        if not self.shuffle:
            return torch.arange(self.num_samples, device="cpu")
        generator = torch.Generator(device="cpu").manual_seed(
            (self.seed * 1_000_003 + epoch) % 2**64
        )
        return torch.randperm(self.num_samples, generator=generator, device="cpu")


class Reader:
    """Reads along an order; holds one epoch of it at a time."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._epoch = -1
        self._samples = torch.empty(0)

    def read(self, begin: int, end: int) -> list[EpochSample]:
        """The samples at the places ``[begin, end)``, which may lie in more than one epoch."""
        found: list[EpochSample] = []
        while begin < end:
            epoch, inside = divmod(begin, self._order.num_used)
            if epoch != self._epoch:
                self._epoch, self._samples = epoch, self._order.of_epoch(epoch)
            until = min(inside + end - begin, self._order.num_used)
            numbers = self._samples[inside:until].tolist()
            found += [EpochSample(epoch, number) for number in numbers]
            begin += len(numbers)
        return found
