"""The error family of dynatrain; the C++ core raises the same classes.

Every message says what was refused, what was expected and what was got, which tensor and rank, what
state remains, and what to do.
"""

from __future__ import annotations

import errno
import re
from typing import Any

from torch import OutOfMemoryError
from torch.distributed import DistError

from dynatrain._limits import refusal
from dynatrain.given import described, first_line, said


class Error(RuntimeError):
    """Root of every error that dynatrain raises."""


class LayoutError(Error, ValueError):
    """The caller's layouts, model or tensors do not fit; nothing was switched.

    Attributes:
        is_momentary: the moment does not fit, and the next step boundary may.
    """

    def __init__(self, message: str = "", *, is_momentary: bool = False) -> None:
        super().__init__(message)
        self.is_momentary = is_momentary


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


class LostStateError(TransportError):
    """A switch was decided, and failed before its state stood; the former one is gone here.

    Attributes:
        is_doubtful: what has arrived is not what was sent: nothing of it may be used.
    """

    def __init__(self, message: str, *, is_doubtful: bool = False) -> None:
        super().__init__(message, retryable=False)
        self.is_doubtful = is_doubtful


class DeviceError(Error):
    """A device call failed, or the system refused a thread or a descriptor."""


class InternalError(Error):
    """dynatrain broke one of its own invariants; please report it with the message."""


#: How torch's allocators, the C library and C++ say that there is no memory left.
_NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
)
_INTACT = "nothing was switched; the source state is intact, training may go on"
#: How refusals of a call say what remains.
REMAINS = (
    r"nothing was (moved|switched)(; the source state is intact( on all ranks)?(,| and)?"
    r"( training may go on)?)?"
    r"|no switch was begun( by this rank; its state is intact)?"
    r"|the source state is intact and training may go on"
    r"|a switch that was not voted on yet is given up, its source state is intact"
)
_REMAINS = re.compile(REMAINS)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, on the host or on a device."""
    if isinstance(error, MemoryError | OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = said(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)


def is_refused(error: Exception) -> bool:
    """Whether the system has refused memory, a thread or a descriptor."""
    return is_out_of_memory(error) or refusal(error) is not None


def of_family(error: Exception, phase: str) -> Error:
    """What ``error``, raised in a phase that moves nothing, is to the caller; chained to it."""
    if isinstance(error, BudgetError | LayoutError | TransportError | InternalError):
        return error
    made: Error
    if is_out_of_memory(error):
        made = BudgetError(
            f"session: {phase} ran out of memory: {first_line(error)}\n"
            f"  expected the system to have what it asked for\n  {_INTACT}\n"
            "  free memory, lower staging_budget_bytes, or choose a layout with smaller shards; "
            "session.check(layout) says what one needs"
        )
    elif isinstance(error, Error):
        return error
    elif (found := refusal(error)) is not None:
        what, limit, advice = found
        made = DeviceError(
            f"session: {phase} was refused {what}\n"
            f"  expected the system to have it; {limit}\n  {_INTACT}\n"
            f"  {advice}, and call again on all ranks"
        )
    elif isinstance(error, DistError):
        made = TransportError(
            f"session: {phase} could not reach a peer or the store: {said(error)}\n"
            f"  expected all ranks of the job, and the store, to answer\n  {_INTACT}\n"
            "  see the output of the other ranks; if all are alive, call again"
        )
    else:
        made = LayoutError(
            f"session: {phase} raised {described(error)}\n"
            f"  expected it to work on what build and the script made\n  {_INTACT}\n"
            "  mend what the error above this one shows, and call again"
        )
    made.__cause__ = error
    return made


def ends_job(error: Exception) -> bool:
    """Whether a rank that met ``error`` must not train on: it may stand in a world of its own.

    It could not learn how a vote ended, is not whole after one, or the store is gone.
    """
    if isinstance(error, TransportError):
        return not error.retryable
    return isinstance(error, InternalError)


def kind_and_facts(error: Error) -> tuple[str, tuple[int, ...]]:
    """The class of the family that an error is of, and what beside its message it is made with."""
    if isinstance(error, BudgetError):
        return "BudgetError", (error.required_bytes, error.budget_bytes)
    if isinstance(error, TransportError):
        return "TransportError", (error.peer, error.stage, error.retryable)
    for kind in (DeviceError, InternalError):
        if isinstance(error, kind):
            return kind.__name__, ()
    return "LayoutError", (isinstance(error, LayoutError) and error.is_momentary,)


def of_kind(kind: str, message: str, facts: tuple[int, ...]) -> Error:
    """The error that :func:`kind_and_facts` told of, with another message."""
    if kind == "LayoutError":
        return LayoutError(message, is_momentary=any(facts))
    kinds: tuple[Any, ...] = (BudgetError, TransportError, DeviceError, InternalError)
    made: Error = {each.__name__: each for each in kinds}[kind](message, *facts)
    return made


def without_remains(message: str) -> str:
    """``message`` without its lines that say what remains, for one that says it once for many."""
    lines = message.splitlines()
    return "\n".join(line for line in lines if not _REMAINS.fullmatch(line.strip()))


def like(example: Error, message: str) -> Error:
    """An error of the kind of ``example``, with its facts, that says ``message``."""
    kind, facts = kind_and_facts(example)
    return of_kind(kind, message, facts)
