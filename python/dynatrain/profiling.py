"""Ranges in the timelines of torch.profiler and, on a GPU, of Nsight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.profiler import record_function

from dynatrain._torch_private.tensors import profiler_enabled


@contextmanager
def profiler_range(name: str) -> Iterator[None]:
    """A range of torch.profiler, and of NVTX where CUDA is in use."""
    with_nvtx = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if with_nvtx:
        torch.cuda.nvtx.range_push(name)  # type: ignore[no-untyped-call]
    try:
        with record_function(name):
            yield
    finally:
        if with_nvtx:
            torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]


def native_ranges() -> tuple[Callable[[str], None], Callable[[], None]] | None:
    """What the native module calls around each phase; None unless torch.profiler is on.

    Each call takes the GIL in the middle of a switch, which nobody should pay for without need.
    The native module has NVTX ranges of its own.
    """
    if not profiler_enabled():
        return None
    opened: list[ExitStack] = []

    def begin(name: str) -> None:
        opened.append(ExitStack())
        opened[-1].enter_context(record_function(name))

    def end() -> None:
        opened.pop().close()

    return begin, end
