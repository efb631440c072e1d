"""What the protocol's machine of a member asks of the training thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Asked:
    """What the training thread is to do.

    Attributes:
        kind: ``train``, ``hold``, ``slice``, ``switch``, ``install``, ``discard``, ``retire``,
            ``forget``, ``stop`` or ``end``.
        attempt: that it is about; 0 where it is about none.
        version: completed steps with which the world begins, or at which it is left.
        why: of an end, its kind and its reason; of a stop, only the latter.
    """

    kind: str
    attempt: int = 0
    version: int = 0
    why: tuple[str, str] = ("", "")

    @staticmethod
    def of(kind: str, facts: Sequence[Any]) -> Asked:
        """What an action of the machine asks, by its kind and what comes with it."""
        if kind == "train":
            return Asked(kind, version=facts[1])
        if kind == "install":
            return Asked(kind, facts[0], facts[2])
        if kind in ("switch", "retire"):
            return Asked(kind, facts[0], facts[1])
        if kind == "forget":
            return Asked(kind)
        if kind == "stop":
            return Asked(kind, why=("", facts[1]))
        if kind == "end":
            return Asked(kind, why=(facts[0], facts[1]))
        return Asked(kind, facts[0])

    @property
    def cuts_because(self) -> str:
        """Why what waits for others is ended by a stop or an end, in words."""
        return "a member is lost" if self.kind == "stop" else "this member has ended"

    @property
    def ends_waits(self) -> bool:
        """Whether the training thread has to hear it wherever it waits for other members."""
        return self.kind in ("stop", "discard", "end")
