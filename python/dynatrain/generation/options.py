"""Settings of a session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from dynatrain.generation.lanes import Nccl

VERIFY = ("sums", "fingerprint", "replicas")
MODES = ("retain", "stream", "auto")


@dataclass(frozen=True)
class Options:
    """Settings of a session; see ``init`` and ``join`` for what each means."""

    timeout: timedelta
    staging_budget_bytes: int
    memory_budget_bytes: int | None
    num_threads: int
    transport: str | Nccl
    verify: frozenset[str]
    seed: int
    mode: str = "retain"
    relabel: bool = False
    snapshot_every: int | None = None
    checkpoint_dir: Path | None = None
    checkpoint_every: int | None = None

    @property
    def shares_memory(self) -> bool:
        """Whether ranks are to read each other's host memory in place."""
        return self.transport == "shared_memory"
