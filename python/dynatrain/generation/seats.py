"""Who sits where in a layout: members by their ids, which last from generation to generation."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from dynatrain.generation.members import Members
from dynatrain.layout import Layout


@dataclass(frozen=True)
class Seats:
    """The places of a layout and the members that take them.

    Attributes:
        layout: the layout.
        ids: of the members, by rank in the layout; as many as it has ranks. Empty where whoever
            had the place is lost, or has nothing of the version that the others hold.
    """

    layout: Layout
    ids: tuple[str, ...]

    @staticmethod
    def first_of(members: Members, layout: Layout) -> Seats:
        """The first of the members, in their order; the others idle."""
        return Seats(layout, tuple(each.id for each in members.each[: layout.world_size]))

    def place_of(self, member_id: str) -> int | None:
        """The rank in the layout that a member has; None where it idles."""
        return self._places.get(member_id)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {member_id: place for place, member_id in enumerate(self.ids) if member_id}

    def takes_in(self, before: Seats) -> bool:
        """Whether somebody sits here who had no place ``before``."""
        return not set(self.ids) <= set(before.ids)

    def leaves_idle(self, ids: Collection[str]) -> bool:
        """Whether some of these members have no place here."""
        return not set(ids) <= set(self.ids)

    def without(self, ids: Collection[str]) -> Seats:
        """The same, in which these members have no place."""
        return Seats(self.layout, tuple("" if each in ids else each for each in self.ids))

    @property
    def key(self) -> str:
        """Text that tells these seats from others, the same on all ranks."""
        ids = "\n".join(self.ids).encode()
        return f"{self.layout} {hashlib.sha256(ids).hexdigest()[:16]}"
