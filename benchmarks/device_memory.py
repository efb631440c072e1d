"""The memory that a switch takes on a GPU: as its plan says, and as the GPU says."""

from __future__ import annotations

import threading
from types import TracebackType

import torch
import torch.distributed as dist

import dynatrain
from dynatrain.generation.lanes import DEVICE

PERIOD_S = 0.0005


def planned_bytes(session: dynatrain.Session) -> int:
    """Bytes beside the source that the prepared switch takes on this rank's GPU.

    That is the target, staging, and the tables of its copies.
    Read in place, or through pinned memory over Gloo, a switch stages nothing there.
    """
    standing = session._part.targets.standing
    assert standing is not None
    transport = (
        session._part.engine.lanes[DEVICE].name if DEVICE in session._part.engine.lanes else "c10d"
    )
    return (
        standing.fresh_bytes
        + standing.table_bytes
        + sum(
            route.schedule.staging_peak_bytes
            for route in standing.routes
            if route.moves.lane == DEVICE and not route.one_sided and transport != "c10d"
        )
    )


class LeastFree:
    """Watches the free memory of a GPU from rank 0, for all ranks that share it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._over = threading.Event()
        self._watching = dist.get_rank() == 0
        self._first = self._least = self._free()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> LeastFree:
        if self._watching:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._watching:
            self._thread.join()

    @property
    def taken_bytes(self) -> int:
        """How far the free memory fell; 0 on ranks that do not watch."""
        return self._first - self._least if self._watching else 0

    def _free(self) -> int:
        return int(torch.cuda.mem_get_info(self._device)[0])

    def _watch(self) -> None:
        while not self._over.wait(PERIOD_S):
            self._least = min(self._least, self._free())
