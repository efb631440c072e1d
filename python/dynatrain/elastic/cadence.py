"""How often a member copies its state, and which copies go to disk."""

from __future__ import annotations

from dataclasses import dataclass

from dynatrain.elastic.checkpoint_folder import CheckpointFolder


@dataclass(frozen=True)
class Cadence:
    """How often what is made of copies.

    Attributes:
        snapshot_every: steps between two that go to a keeper; None where none do.
        checkpoint_every: steps between two that go to disk; None where none do.
        folder: of the checkpoints.
    """

    snapshot_every: int | None
    checkpoint_every: int | None = None
    folder: CheckpointFolder | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no copies are made at all."""
        return self.snapshot_every is None and self.checkpoint_every is None

    @property
    def every(self) -> int:
        """Steps between two copies."""
        return self.snapshot_every or self.checkpoint_every or 1

    def is_checkpoint(self, version: int, last: int) -> bool:
        """Whether the copy of a version goes to disk, after the last one that did."""
        every = self.checkpoint_every
        return every is not None and version // every > last // every

    def not_before(self, version: int) -> int:
        """The first boundary from a version on that a copy is due at: a multiple."""
        return -(-version // self.every) * self.every

    def first(self, version: int) -> int:
        """The boundary of a world's first copy: at once, where another member is to keep it."""
        return self.not_before(version) if self.snapshot_every is None else version

    def not_beyond(self, due: int, at: int, last: int, tried: int) -> int:
        """The next boundary; the script's last one, where its copy goes to disk and none is before.

        Args:
            due: the boundary but for that.
            at: that all have come to.
            last: of the script, on all members; -1 where they do not say the same.
            tried: the last version that was to go to disk.
        """
        return last if at < last < due and self.is_checkpoint(last, tried) else due

    def following(self, version: int, soonest: int) -> int:
        """The boundary behind a copy: the next multiple that can be kept to."""
        return self.not_before(max(version + 1, soonest))
