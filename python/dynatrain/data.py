"""A data loader whose global sample order does not depend on the layout."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from dynatrain._errors import LayoutError
from dynatrain._torch_private.groups import place_in_job
from dynatrain.given import kind, shown
from dynatrain.layout import Layout, Place
from dynatrain.noise import SeededCollate, SeededDataset
from dynatrain.sampler import ElasticSampler


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
        return next(self._batches)

    def _loader(self) -> DataLoader[Any]:
        sampler, options = self.sampler, dict(self._options)
        if "worker_init_fn" in options or "generator" in options:
            return DataLoader(self.dataset, batch_sampler=sampler, **options)
        collate = options.pop("collate_fn", None) or default_collate
        return DataLoader(
            SeededDataset(self.dataset, sampler.seed),
            batch_sampler=sampler.batches(),
            collate_fn=SeededCollate(collate),
            # Else torch draws the workers' seed from its default stream.
            generator=torch.Generator(device="cpu"),
            **options,
        )

    def loss_weight(self, num_samples: int) -> float:
        """The sampler's: what to multiply a mean over ``num_samples`` samples by."""
        return self.sampler.loss_weight(num_samples)

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
