"""The error family of dynatrain; the C++ core raises the same classes.

Every message says what was refused, what was expected and what was got, which tensor and rank, what
state remains, and what to do.
"""

from __future__ import annotations

from torch.distributed import DistError


class Error(RuntimeError):
    """Root of every error that dynatrain raises."""


class LayoutError(Error, ValueError):
    """The caller's layouts, model or tensors do not fit; nothing was moved."""


class StaleStateError(LayoutError):
    """An object of a world that a switch has replaced was used."""


class BudgetError(Error):
    """A predicted peak is over the budget; nothing was moved.

    Attributes:
        required_bytes: what the plan needs at its peak.
        budget_bytes: what it was allowed.
    """

    def __init__(self, message: str, required_bytes: int = 0, budget_bytes: int = 0) -> None:
        super().__init__(message)
        self.required_bytes = required_bytes
        self.budget_bytes = budget_bytes


class TransportError(Error, DistError):
    """A peer could not be reached, answered with other bytes, or was too late.

    Attributes:
        peer: rank of the peer at fault, -1 when no single one is.
        stage: stage of the transfer, -1 outside of stages.
        retryable: whether the same call may succeed later.
    """

    def __init__(
        self, message: str, peer: int = -1, stage: int = -1, retryable: bool = True
    ) -> None:
        super().__init__(message)
        self.peer = peer
        self.stage = stage
        self.retryable = retryable


class DeviceError(Error):
    """A device call failed."""


class InternalError(Error):
    """dynatrain broke one of its own invariants; please report it with the message."""
