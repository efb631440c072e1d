"""Which samples a data parallel rank reads in which step, by a rule that knows no layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler

from dynatrain._errors import LayoutError
from dynatrain.given import kind, shown, whole
from dynatrain.layout import Layout, Place

_ORDER_KEYS = ("num_samples", "global_batch_size", "seed", "shuffle")


def _whole(name: str, value: Any) -> int:
    """An integer, numpy's too; raises LayoutError for anything else."""
    found = whole(value)
    if found is None:
        raise LayoutError(
            f"data: {name}={shown(value)}\n  expected an integer, got a {kind(value)}\n"
            f"  nothing was changed\n  give a whole number, such as {name}=8"
        )
    return found


class ElasticSampler(Sampler[list[int]]):
    """Batches of sample numbers for this data parallel rank, cut from one global order.

    Step ``s`` of an epoch takes the samples ``[s * B, (s + 1) * B)`` of the epoch's order, ``B``
    being ``global_batch_size``; of these the i-th of ``n`` data parallel ranks takes the i-th of
    ``n`` equal runs. The order is a permutation by (seed, epoch), or 0, 1, 2, ... . A remainder
    smaller than B at an epoch's end is left out.

    Args:
        num_samples: length of the dataset.
        global_batch_size: samples of one step, all ranks together.
        seed: of the permutations.
        shuffle: permute, or keep the dataset's order.
    """

    def __init__(
        self, num_samples: int, global_batch_size: int, *, seed: int = 0, shuffle: bool = True
    ) -> None:
        num_samples = _whole("num_samples", num_samples)
        global_batch_size = _whole("global_batch_size", global_batch_size)
        if not 0 < global_batch_size <= num_samples:
            raise LayoutError(
                f"data: a global batch of {global_batch_size} from {num_samples} samples\n"
                "  expected 1 <= global_batch_size <= num_samples\n  nothing was changed"
            )
        self.num_samples = num_samples
        self.global_batch_size = global_batch_size
        if type(shuffle) is not bool:
            raise LayoutError(
                f"data: shuffle={shown(shuffle)}\n  expected True or False, got a {kind(shuffle)}\n"
                "  nothing was changed\n  give one of both"
            )
        self.seed = _whole("seed", seed)
        self.shuffle = shuffle
        self.step = 0  #: global batches taken since the beginning
        self._dp_rank, self._dp_size = 0, 1
        self.has_world = False  #: whether a session has told it of one

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in one pass over the dataset."""
        return self.num_samples // self.global_batch_size

    def check_layout(self, layout: Layout) -> None:
        """Asked before a switch; raises LayoutError when the batch does not divide by its dp."""
        size = layout.dp_replicate * layout.dp_shard
        if self.global_batch_size % size:
            raise LayoutError(
                f"data: a global batch of {self.global_batch_size} over {size} data parallel ranks"
                f"\n  expected a multiple of {size}\n"
                "  nothing was moved; the source state is intact\n"
                "  choose a global batch that every layout's dp divides"
            )

    def on_world(self, world: Place | None) -> None:
        """Takes this rank's run of every batch from ``world``."""
        self.has_world = True
        if world is None:
            return
        self.check_layout(world.layout)
        self._dp_size = world.size("dp_replicate") * world.size("dp_shard")
        self._dp_rank = world.coordinate("dp_replicate") * world.size(
            "dp_shard"
        ) + world.coordinate("dp_shard")

    def __iter__(self) -> Iterator[list[int]]:
        """Batches from ``step`` on, without end."""
        step = self.step
        while True:
            epoch, inside = divmod(step, self.steps_per_epoch)
            order = self._order(epoch)
            for index in range(inside, self.steps_per_epoch):
                yield self._own_run(order, index)
                step += 1

    def epoch_of(self, step: int) -> int:
        """The pass over the dataset that a global batch belongs to."""
        return step // self.steps_per_epoch

    def _order(self, epoch: int) -> torch.Tensor:
        if not self.shuffle:
            return torch.arange(self.num_samples, device="cpu")
        generator = torch.Generator(device="cpu").manual_seed(
            (self.seed * 1_000_003 + epoch) % 2**64
        )
        return torch.randperm(self.num_samples, generator=generator, device="cpu")

    def _own_run(self, order: torch.Tensor, index: int) -> list[int]:
        run = self.global_batch_size // self._dp_size
        begin = index * self.global_batch_size + self._dp_rank * run
        return [int(sample) for sample in order[begin : begin + run]]

    def state_dict(self) -> dict[str, Any]:
        """The cursor and what the order depends on."""
        return {"step": self.step, **{key: getattr(self, key) for key in _ORDER_KEYS}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the other sampler was; raises LayoutError when their orders differ."""
        own = self.state_dict()
        try:
            given = {key: whole(state_dict[key]) for key in own if key != "shuffle"}
            given["shuffle"] = bool(state_dict["shuffle"])
        except Exception:  # noqa: BLE001 - whatever the caller has read from somewhere
            given = {"step": None}
        if None in given.values():
            raise LayoutError(
                f"data: a sampler was given {shown(state_dict)} as its state\n"
                f"  expected whole numbers under {sorted(own)}\n  nothing was changed\n"
                "  give it what state_dict() of a sampler returned"
            )
        for key in _ORDER_KEYS:
            if given[key] != own[key]:
                raise LayoutError(
                    f"data: {key} is {own[key]} here and {given[key]} in the state\n"
                    "  expected equal values, or the sample order changes\n  nothing was changed"
                )
        self.step = int(given["step"] or 0)
