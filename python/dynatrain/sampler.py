"""Which samples a data parallel rank reads in which step, by a rule that knows no layout."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from torch.utils.data import Sampler

from dynatrain._errors import LayoutError
from dynatrain.given import kind, shown, whole
from dynatrain.layout import Layout, Place
from dynatrain.order import EpochSample, Order, Reader
from dynatrain.shares import run

_ORDER_KEYS = ("num_samples", "global_batch_size", "seed", "shuffle", "drop_last")
_FLAGS = ("shuffle", "drop_last")


def _whole(name: str, value: Any) -> int:
    """An integer, numpy's too; raises LayoutError for anything else."""
    found = whole(value)
    if found is None:
        raise LayoutError(
            f"data: {name}={shown(value)}\n  expected an integer, got a {kind(value)}\n"
            f"  nothing was changed\n  give a whole number, such as {name}=8"
        )
    return found


def _flag(name: str, value: Any) -> bool:
    """A bool; raises LayoutError for anything else."""
    if type(value) is not bool:
        raise LayoutError(
            f"data: {name}={shown(value)}\n  expected True or False, got a {kind(value)}\n"
            "  nothing was changed\n  give one of both"
        )
    return value


def dp_size(layout: Layout) -> int:
    """Ranks among which a layout shares out each batch."""
    return layout.dp_replicate * layout.dp_shard


class ElasticSampler(Sampler[list[int]]):
    """Batches of sample numbers for this data parallel rank, cut from one global order.

    The order is that of the epochs, one behind the other without end: permutations by (seed,
    epoch), or 0, 1, 2, ... . Step ``s`` takes its places ``[s * B, (s + 1) * B)``, B being
    ``global_batch_size``; of these the i-th of ``n`` data parallel ranks takes the i-th of ``n``
    runs, its share. So a step has B samples in every layout, and an epoch has every sample once:
    what remains of one behind its last whole batch begins the batch with which the next one starts.

    Args:
        num_samples: length of the dataset.
        global_batch_size: samples of one step, all ranks together.
        seed: of the permutations.
        shuffle: permute, or keep the dataset's order.
        drop_last: leave what remains of an epoch out, so that a step reads samples of one epoch
            alone: other samples in every epoch where they are permuted, else always the same.
        uneven_shares: take layouts whose data parallel size does not divide the global batch, too:
            the first ranks read one sample more than the others, and losses want their
            :meth:`loss_weight`. Without it such a layout is refused.
    """

    def __init__(  # noqa: PLR0913 - what the order is, by name
        self,
        num_samples: int,
        global_batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        uneven_shares: bool = False,
    ) -> None:
        num_samples = _whole("num_samples", num_samples)
        global_batch_size = _whole("global_batch_size", global_batch_size)
        if not 0 < global_batch_size <= num_samples:
            raise LayoutError(
                f"data: a global batch of {global_batch_size} from {num_samples} samples\n"
                "  expected 1 <= global_batch_size <= num_samples\n  nothing was changed\n"
                "  give a smaller batch, or a dataset with more samples"
            )
        self.num_samples = num_samples
        self.global_batch_size = global_batch_size
        self.seed = _whole("seed", seed)
        self.shuffle = _flag("shuffle", shuffle)
        self.drop_last = _flag("drop_last", drop_last)
        self.uneven_shares = _flag("uneven_shares", uneven_shares)
        self.step = 0  #: global batches taken since the beginning
        self._dp_rank, self._dp_size = 0, 1
        self.has_world = False  #: whether a session has told it of one

    @property
    def _order(self) -> Order:
        dropped = self.num_samples % self.global_batch_size if self.drop_last else 0
        return Order(self.num_samples, self.num_samples - dropped, self.seed, self.shuffle)

    @property
    def dp_size(self) -> int:
        """Data parallel ranks of the present world; 1 before there is one."""
        return self._dp_size

    def num_steps(self, num_epochs: int = 1) -> int:
        """Steps from the beginning until every sample was read in each of ``num_epochs`` epochs.

        The last of them may read the first samples of the epoch that follows.
        """
        num_places = _whole("num_epochs", num_epochs) * self._order.num_used
        return -(-num_places // self.global_batch_size)

    def loss_weight(self, num_samples: int) -> float:
        """What to multiply a loss by that is the mean over ``num_samples`` samples of this rank.

        With it the gradient that data parallel ranks average, as ``fully_shard`` and
        ``DistributedDataParallel`` do, is that of the mean over the global batch, however uneven
        the shares and micro-batches are; so is the loss that they average. It is
        ``num_samples * dp / global_batch_size``: 1 for a whole share where all are equal.

        Raises:
            LayoutError: that many samples are not in a global batch. Tokens are no samples.
        """
        found = _whole("num_samples", num_samples)
        if not 0 < found <= self.global_batch_size:
            raise LayoutError(
                f"data: the weight of {found} samples of a global batch of "
                f"{self.global_batch_size}\n"
                f"  expected 1 <= num_samples <= {self.global_batch_size}\n"
                "  nothing was changed\n"
                "  give it how many samples the mean is over, not tokens or elements"
            )
        return found * self._dp_size / self.global_batch_size

    def check_layout(self, layout: Layout) -> None:
        """Asked before a switch; raises LayoutError where dp does not fit the global batch.

        A dp above it never does; one that does not divide it does with ``uneven_shares``.
        """
        size = dp_size(layout)
        batch = f"a global batch of {self.global_batch_size}"
        asked = f"data: {batch} over the {size} data parallel ranks of {layout}"
        if size > self.global_batch_size:
            raise LayoutError(
                f"{asked}\n  expected at most {self.global_batch_size} ranks: each reads a sample\n"
                "  nothing was moved; the source state is intact\n"
                "  choose a layout with a smaller dp, or a larger global batch"
            )
        if self.global_batch_size % size and not self.uneven_shares:
            raise LayoutError(
                f"{asked}\n  expected a multiple of {size}\n"
                "  nothing was moved; the source state is intact\n"
                "  choose a layout whose dp divides it, a global batch that every layout's dp "
                "divides, or uneven_shares=True and a loss times loss_weight()"
            )

    def on_world(self, world: Place | None) -> None:
        """Takes this rank's share of every batch from ``world``."""
        self.has_world = True
        if world is None:
            return
        self.check_layout(world.layout)
        self._dp_size = dp_size(world.layout)
        self._dp_rank = world.coordinate("dp_replicate") * world.size(
            "dp_shard"
        ) + world.coordinate("dp_shard")

    def __iter__(self) -> Iterator[list[int]]:
        """Batches from ``step`` on, without end."""
        for batch in self.batches():
            yield [sample.number for sample in batch]

    def batches(self) -> Iterator[list[EpochSample]]:
        """The same with the epoch of each sample, as a batch may have samples of two."""
        reader = Reader(self._order)
        share = run(self.global_batch_size, self._dp_size, self._dp_rank)
        for step in count(self.step):
            begin = step * self.global_batch_size
            yield reader.read(begin + share.start, begin + share.stop)

    def epoch_of(self, step: int) -> int:
        """The epoch of the first sample of a global batch."""
        return self._order.epoch_of(step * self.global_batch_size)

    def state_dict(self) -> dict[str, Any]:
        """The cursor and what the order depends on."""
        return {"step": self.step, **{key: getattr(self, key) for key in _ORDER_KEYS}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the other sampler was; raises LayoutError when their orders differ."""
        own = self.state_dict()
        try:
            given = {key: whole(state_dict[key]) for key in own if key not in _FLAGS}
            given.update({key: bool(state_dict[key]) for key in _FLAGS})
        except Exception:  # noqa: BLE001 - whatever the caller has read from somewhere
            given = {"step": None}
        if None in given.values() or (given["step"] or 0) < 0:
            raise LayoutError(
                f"data: a sampler was given {shown(state_dict)} as its state\n"
                f"  expected whole numbers under {sorted(own)}, and no step before the first\n"
                "  nothing was changed\n"
                "  give it what state_dict() of a sampler returned"
            )
        if self.num_samples % self.global_batch_size == 0:
            given["drop_last"] = own["drop_last"]  # nothing remains: both are one order
        for key in _ORDER_KEYS:
            if given[key] != own[key]:
                raise LayoutError(
                    f"data: {key} is {own[key]} here and {given[key]} in the state\n"
                    "  expected equal values, or the sample order changes\n  nothing was changed\n"
                    f"  make the sampler with {key}={given[key]}"
                )
        self.step = int(given["step"] or 0)
