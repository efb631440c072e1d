"""A data loader whose global sample order does not depend on the layout."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate

from dynatrain._errors import LayoutError
from dynatrain._torch_private.groups import place_in_job
from dynatrain.given import kind, shown, whole
from dynatrain.layout import Layout, Place
from dynatrain.noise import SeededCollate, SeededDataset, WithEpochs

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


class ElasticLoader(Iterator[Any]):
    """An endless iterator over this rank's batches that survives switches.

    Pass it to ``dynatrain.init(..., keep={"data": loader})``. Batches that workers have fetched
    ahead are dropped at a switch and asked again by the new rule; no sample is skipped or repeated.

    What a sample's ``dataset[index]`` draws from the default random streams of Python, torch's CPU
    and numpy depends on (seed, epoch, sample) alone: it is the same in every layout and with any
    number of workers. What ``collate_fn`` draws depends on the samples of its batch. The streams of
    the process itself are left as they were. With ``worker_init_fn`` or ``generator`` among the
    options the script seeds its workers itself, and draws as it would from torch's own loader.

    Args:
        dataset: a map-style dataset. Its ``__getitems__`` is asked for one sample at a time, unless
            the script seeds its workers itself.
        sampler: the global order.
        options: passed on to ``torch.utils.data.DataLoader`` (``num_workers``, ``collate_fn``,
            ``pin_memory``, ...).

    Raises:
        LayoutError: the sampler has more samples than the dataset, or an option does not fit.
    """

    def __init__(self, dataset: Dataset[Any], sampler: ElasticSampler, **options: Any) -> None:
        if not issubclass(type(sampler), ElasticSampler):
            raise LayoutError(
                f"data: a loader was given sampler={shown(sampler)}\n"
                f"  expected a dynatrain.ElasticSampler, got a {kind(sampler)}\n"
                "  nothing was started\n"
                "  its order is what does not depend on the layout: ElasticSampler(len(dataset), 8)"
            )
        self.dataset = dataset
        self.sampler = sampler
        self._options = options
        self._batches: Iterator[Any] | None = None
        if isinstance(dataset, IterableDataset):
            raise LayoutError(
                f"data: a {type(dataset).__name__} is read in its own order\n"
                "  expected a map-style dataset, with __getitem__ and __len__\n"
                "  nothing was started\n"
                "  keep such a loader as an extra named in TrainState(per_rank=)"
            )
        size = len(dataset) if isinstance(dataset, Sized) else None
        if size is not None and sampler.num_samples > size:
            raise LayoutError(
                f"data: a sampler of {sampler.num_samples} samples over a dataset of {size}\n"
                "  expected at most as many samples as the dataset has\n  nothing was started\n"
                "  make it ElasticSampler(len(dataset), ...)"
            )
        try:
            self._loader()
        except (TypeError, ValueError) as error:
            raise LayoutError(
                f"data: torch's DataLoader refuses the options {sorted(options)}: {error}\n"
                "  expected a map-style dataset and options that leave batches to the sampler\n"
                "  nothing was started\n"
                "  leave out batch_size, shuffle, sampler, batch_sampler and drop_last"
            ) from error

    def __next__(self) -> Any:
        _, num_ranks = place_in_job()
        if not self.sampler.has_world and num_ranks > 1:
            raise LayoutError(
                "data: a loader that knows of no world was asked for a batch, on one of "
                f"{num_ranks} ranks\n"
                "  expected a session to tell it: every rank would get the same whole batch\n"
                "  no batch was taken\n"
                '  give it to the session, dynatrain.init(..., keep={"data": loader}), or call '
                "loader.on_world(session.world)"
            )
        if self._batches is None:
            self._batches = iter(self._loader())
        batch = next(self._batches)
        self.sampler.step += 1
        return batch

    def _loader(self) -> DataLoader[Any]:
        sampler, options = self.sampler, dict(self._options)
        if "worker_init_fn" in options or "generator" in options:
            return DataLoader(self.dataset, batch_sampler=sampler, **options)
        collate = options.pop("collate_fn", None) or default_collate
        return DataLoader(
            SeededDataset(self.dataset, sampler.seed),
            batch_sampler=WithEpochs(sampler),
            collate_fn=SeededCollate(collate),
            # Else torch draws the workers' seed from its default stream.
            generator=torch.Generator(device="cpu"),
            **options,
        )

    def check_layout(self, layout: Layout) -> None:
        """Asked before a switch; see ElasticSampler."""
        self.sampler.check_layout(layout)

    def on_world(self, world: Place | None) -> None:
        """Drops what was fetched ahead and goes on by the new world's rule."""
        self._batches = None
        self.sampler.on_world(world)

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state."""
        return self.sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the other loader was."""
        self._batches = None
        self.sampler.load_state_dict(state_dict)
