"""The control group: small exchanges between all ranks of the job while a switch runs.

It is a host group of the library's own; nothing here shares a group with the script.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from dynatrain._errors import BudgetError, Error, LayoutError, TransportError
from dynatrain._torch_private import new_group

_T = TypeVar("_T")


@dataclass(frozen=True)
class Publication:
    """A blob and the ranks that published exactly it."""

    blob: bytes
    ranks: list[int]


class Control:
    """Collectives over all ranks of the job with errors that every rank learns.

    Args:
        timeout: deadline of each exchange.
    """

    def __init__(self, timeout: timedelta) -> None:
        self.rank = dist.get_rank()
        self.num_ranks = dist.get_world_size()
        self._group = new_group(None, timeout, backend="gloo")

    def gather(self, value: _T) -> list[_T]:
        """Everybody's value, by rank. Collective. The values are pickled."""
        blob = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        try:
            sizes = self._gather_sizes(blob.numel())
            padded = torch.zeros(max(sizes), dtype=torch.uint8)
            padded[: blob.numel()] = blob
            out = [torch.empty_like(padded) for _ in range(self.num_ranks)]
            dist.all_gather(out, padded, group=self._group)
        except RuntimeError as error:
            raise self._lost(error) from error
        return [
            pickle.loads(part[:size].numpy().tobytes())
            for part, size in zip(out, sizes, strict=True)
        ]

    def _gather_sizes(self, size: int) -> list[int]:
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.num_ranks)]
        dist.all_gather(sizes, torch.tensor([size], dtype=torch.int64), group=self._group)
        return [int(item) for item in sizes]

    def publish(self, blob: bytes) -> list[Publication]:
        """Exchanges blobs; each distinct one travels once, from its lowest rank. Collective."""
        digests = self.gather((hashlib.sha256(blob).digest(), len(blob)))
        ranks_of: dict[tuple[bytes, int], list[int]] = {}
        for rank, key in enumerate(digests):
            ranks_of.setdefault(key, []).append(rank)
        publications = []
        for (_, size), ranks in ranks_of.items():
            mine = self.rank in ranks
            data = (
                blob if len(ranks) == self.num_ranks else self._broadcast(blob, size, ranks, mine)
            )
            publications.append(Publication(data, ranks))
        return publications

    def _broadcast(self, blob: bytes, size: int, ranks: list[int], mine: bool) -> bytes:
        buffer = torch.zeros(max(size, 1), dtype=torch.uint8)
        if mine and size:
            buffer[:size] = torch.frombuffer(bytearray(blob), dtype=torch.uint8)
        try:
            dist.broadcast(buffer, src=ranks[0], group=self._group)
        except RuntimeError as error:
            raise self._lost(error) from error
        return buffer[:size].numpy().tobytes()

    def agree(self, phase: str, error: BaseException | None, value: _T) -> list[_T]:
        """Gathers ``value`` unless a rank has an error; then every rank raises. Collective.

        Raises:
            the own error where there is one; elsewhere an error that names the ranks and theirs:
            BudgetError or TransportError when theirs is one, else LayoutError.
        """
        outcome: tuple[str | None, Any] = (None, value)
        if error is not None:
            shown = error if isinstance(error, BudgetError | TransportError) else None
            outcome = (f"{type(error).__name__}: {error}", shown)
        outcomes = self.gather(outcome)
        if error is not None:
            raise error
        failed = {rank: text for rank, (text, _) in enumerate(outcomes) if text is not None}
        if failed:
            raise refused(
                phase, failed, next(shown for text, shown in outcomes if text is not None)
            )
        return [item for _, item in outcomes]

    def _lost(self, error: RuntimeError) -> TransportError:
        return TransportError(
            f"session: the control group failed: {error}\n"
            "  nothing was committed; the source state is intact\n"
            "  a rank has died or is stuck; end the job, or shrink it once elasticity allows",
            retryable=False,
        )


def refused(phase: str, failed: dict[int, str], example: Error | None = None) -> Error:
    """The error of a rank whose peers refused, of the kind of one of theirs."""
    lines = "\n".join(f"  rank {rank}: {text}" for rank, text in failed.items())
    message = (
        f"session: {phase} was refused by {len(failed)} of the ranks\n{lines}\n"
        "  nothing was moved; the source state is intact on all ranks, training may go on"
    )
    if isinstance(example, BudgetError):
        return BudgetError(message, example.required_bytes, example.budget_bytes)
    if isinstance(example, TransportError):
        return TransportError(message, example.peer, example.stage, example.retryable)
    return LayoutError(message)


def merge_plain(publications: Sequence[Publication]) -> list[tuple[bytes, list[int]]]:
    """Publications as the native module takes them."""
    return [(item.blob, item.ranks) for item in publications]
