"""What a coordinator must find again when it starts anew, or another one in its place: a port."""

from __future__ import annotations

from typing import Protocol


class Ledger(Protocol):
    """Records of one job, in their order, and the right to add to them.

    One coordinator has that right at a time. All methods raise TransportError where records cannot
    be read or written any more; the coordinator ends then, as its machine may know more.
    """

    def lines(self) -> list[str]:
        """All records, in the order in which they were appended."""

    def check(self) -> None:
        """Raises where this coordinator has lost its right; asks nobody, and returns at once."""

    def append(self, line: str) -> None:
        """Puts a record where it outlives this process, before it returns."""

    def close(self) -> None:
        """Gives the right back; another coordinator may have it then."""
