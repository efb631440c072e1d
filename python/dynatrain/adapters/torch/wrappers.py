"""What wraps a model in a way that no build can: refused with what works in its place."""

from __future__ import annotations

from traceback import walk_tb

import torch

from dynatrain._errors import LayoutError

_DDP = torch.nn.parallel.DistributedDataParallel


def of_a_wrapper(error: Exception) -> LayoutError | None:
    """What is said in place of an error that a wrapper's constructor raised; None for others."""
    return _wrapped_by_ddp(error) if _wraps_by_ddp(error) else None


def _wraps_by_ddp(error: Exception) -> bool:
    """Whether an error came out of the constructor of ``DistributedDataParallel``."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return any(
        frame.f_code.co_name == "__init__" and isinstance(frame.f_locals.get("self"), _DDP)
        for frame in frames
    )


def _wrapped_by_ddp(error: Exception) -> LayoutError:
    first, _, _ = str(error).removeprefix("session: ").partition("\n")
    return LayoutError(
        f"session: build wraps a model in DistributedDataParallel: {first}\n"
        "  expected the plain model: the wrapper talks to all replicas when it is made, and others "
        "are training\n"
        "  nothing was switched; the source state is intact\n"
        "  return the plain model, and wrap session.state.model in on_world() of a kept object, "
        "as docs/guide/ddp.md does"
    )
