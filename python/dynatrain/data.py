"""A data loader whose global sample order does not depend on the layout."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from dynatrain._errors import LayoutError
from dynatrain._torch_private.groups import place_in_job
from dynatrain.given import kind, said, shown, whole
from dynatrain.layout import Layout, Place
from dynatrain.noise import SeededCollate, SeededDataset
from dynatrain.order import EpochSample
from dynatrain.sampler import ElasticSampler, dp_size
from dynatrain.shares import num_micro_batches, run


def _checked(micro_batch_size: Any) -> int | None:
    """None or a count of samples; raises LayoutError for anything else."""
    found = whole(micro_batch_size)
    if micro_batch_size is None or (found is not None and found > 0):
        return found
    raise LayoutError(
        f"data: a loader was given micro_batch_size={shown(micro_batch_size)}\n"
        "  expected a whole number of samples, at least 1, or None\n  nothing was started\n"
        "  leave it out to take each step's share in one batch"
    )


def _check_dataset(dataset: Dataset[Any], num_samples: int) -> None:
    """Raises LayoutError where so many samples cannot be asked of ``dataset`` by their numbers."""
    if isinstance(dataset, IterableDataset):
        raise LayoutError(
            f"data: a {type(dataset).__name__} is read in its own order\n"
            "  expected a map-style dataset, with __getitem__ and __len__\n"
            "  nothing was started\n"
            "  keep such a loader as an extra named in TrainState(per_rank=)"
        )
    size = len(dataset) if isinstance(dataset, Sized) else None
    if size is not None and num_samples > size:
        raise LayoutError(
            f"data: a sampler of {num_samples} samples over a dataset of {size}\n"
            "  expected at most as many samples as the dataset has\n  nothing was started\n"
            "  make it ElasticSampler(len(dataset), ...)"
        )


def _cut(shares: Iterator[list[EpochSample]], num_pieces: int) -> Iterator[list[EpochSample]]:
    """The pieces of every share: what torch's loader collates at a time."""
    for share in shares:
        for index in range(num_pieces):
            piece = run(len(share), num_pieces, index)
            yield share[piece.start : piece.stop]


class ElasticLoader(Iterator[Any]):
    """An endless iterator over this rank's batches that survives switches; one for each step.

    With ``micro_batch_size`` a step's batch is a list of micro-batches, for gradient accumulation:
    as many on every data parallel rank, of at most so many samples, and their number follows the
    layout. A loss that is a mean is multiplied by :meth:`loss_weight` of its samples.

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
        micro_batch_size: samples that go through the model at once, at most; a list then.
        options: passed on to ``torch.utils.data.DataLoader`` (``num_workers``, ``collate_fn``,
            ``pin_memory``, ...).

    Raises:
        LayoutError: the sampler has more samples than the dataset, or an option does not fit.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        sampler: ElasticSampler,
        *,
        micro_batch_size: int | None = None,
        **options: Any,
    ) -> None:
        if not issubclass(type(sampler), ElasticSampler):
            raise LayoutError(
                f"data: a loader was given sampler={shown(sampler)}\n"
                f"  expected a dynatrain.ElasticSampler, got a {kind(sampler)}\n"
                "  nothing was started\n"
                "  its order is what does not depend on the layout: ElasticSampler(len(dataset), 8)"
            )
        self.dataset = dataset
        self.sampler = sampler
        self.micro_batch_size = _checked(micro_batch_size)
        self._options = options
        self._batches: Iterator[Any] | None = None
        _check_dataset(dataset, sampler.num_samples)
        try:
            self._loader()
        except (TypeError, ValueError) as error:
            raise LayoutError(
                f"data: torch's DataLoader refuses the options {sorted(options)}: {said(error)}\n"
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
        try:
            batch = self._taken()
        except BaseException:
            self._batches = None  # it has passed the batch: the next call asks for it again
            raise
        self.sampler.step += 1
        return batch

    def _taken(self) -> Any:
        if self._batches is None:
            self._batches = iter(self._loader())
        if self.micro_batch_size is None:
            return next(self._batches)
        return [next(self._batches) for _ in range(self.num_micro_batches)]

    def _loader(self) -> DataLoader[Any]:
        options = dict(self._options)
        # No method of self: a loader in a cycle would keep its workers until the next collection.
        pieces = _cut(self.sampler.batches(), self.num_micro_batches)
        if "worker_init_fn" in options or "generator" in options:
            numbers = ([sample.number for sample in batch] for batch in pieces)
            return DataLoader(self.dataset, batch_sampler=numbers, **options)
        collate = options.pop("collate_fn", None) or default_collate
        return DataLoader(
            SeededDataset(self.dataset, self.sampler.seed),
            batch_sampler=pieces,
            collate_fn=SeededCollate(collate),
            # Else torch draws the workers' seed from its default stream.
            generator=torch.Generator(device="cpu"),
            **options,
        )

    def loss_weight(self, num_samples: int) -> float:
        """The sampler's: what to multiply a mean over ``num_samples`` samples by."""
        return self.sampler.loss_weight(num_samples)

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a step, the same on every data parallel rank of the present world."""
        return self._num_micro_batches(self.sampler.dp_size)

    def _num_micro_batches(self, num_ranks: int) -> int:
        if self.micro_batch_size is None:
            return 1
        return num_micro_batches(self.sampler.global_batch_size, num_ranks, self.micro_batch_size)

    def check_layout(self, layout: Layout) -> None:
        """Asked before a switch; raises LayoutError where the sampler does.

        Also where some ranks would have fewer samples than others have micro-batches: with
        uneven shares and ``micro_batch_size=1``.
        """
        self.sampler.check_layout(layout)
        num_ranks = dp_size(layout)
        pieces = self._num_micro_batches(num_ranks)
        smallest = self.sampler.global_batch_size // num_ranks
        if pieces > smallest:
            raise LayoutError(
                f"data: {pieces} micro-batches from shares of {smallest} and {smallest + 1} samples"
                f"\n  in {layout} with micro_batch_size={self.micro_batch_size}\n"
                "  expected as many micro-batches on every rank, none of them empty: ranks meet "
                "in each\n"
                "  nothing was moved; the source state is intact\n"
                "  give the loader micro_batch_size=2, or choose a dp that divides the batch"
            )

    def on_world(self, world: Place | None) -> None:
        """Drops what was fetched ahead and goes on by the new world's rule."""
        if world is not None:
            self.check_layout(world.layout)
        self._batches = None
        self.sampler.on_world(world)

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state."""
        return self.sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the other loader was."""
        self._batches = None
        self.sampler.load_state_dict(state_dict)
