"""What a rank holds of a state that is not live: copies in host memory, its own and of others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dynatrain import _native
from dynatrain._errors import LayoutError
from dynatrain.adapters.port import SlotNote
from dynatrain.train_state import TrainState


@dataclass(frozen=True)
class Held:
    """A source of a switch whose tensors lie where nothing trains.

    Attributes:
        table: what is held, by explicit boxes.
        parts: the values beside it, encoded, by the names under which they are published.
        parts_apart: the same where every tied FQN is named apart; None where nothing is tied.
        copies: by further FQN of a tied parameter, each name that it makes with the one that the
            tensor has in ``table``.
        notes: of the optimizer slots, as inventories make them.
        on_host: names of tensors that lay in host memory when they were live.
        memory: what ``table`` points into.
        apart: further FQNs of tied parameters under which they are named, too.
    """

    table: _native.StateTable
    parts: Mapping[str, bytes] = field(default_factory=dict)
    parts_apart: Mapping[str, bytes] | None = None
    copies: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    notes: frozenset[SlotNote] = frozenset()
    on_host: frozenset[str] = frozenset()
    memory: Any = None
    apart: frozenset[str] = frozenset()

    @property
    def ties(self) -> frozenset[str]:
        """Further FQNs of parameters that were held once under several."""
        return frozenset(self.copies)

    def under(self, apart: Collection[str]) -> Held:
        """The same with every name that ``apart`` makes.

        Raises:
            LayoutError: ``apart`` has some of the ties and not others.
        """
        more = (frozenset(apart) & self.ties) - self.apart
        if not more:
            return self
        every = self.apart | more
        if every != self.ties or self.parts_apart is None:
            raise LayoutError(
                f"snapshot: of the tied parameters {sorted(self.ties)} only {sorted(every)} are "
                "to be named apart\n"
                "  expected a target that ties as the snapshot did, or none of them\n"
                "  nothing was moved; the snapshot is intact\n"
                "  recover into a layout with as many pipeline stages, then switch"
            )
        known = set(self.table.names())
        pairs = {new: of for fqn in more for new, of in self.copies[fqn] if of in known}
        table = self.table.with_names([each for each in pairs.items() if each[0] not in known])
        on_host = self.on_host | {new for new, of in pairs.items() if of in self.on_host}
        return replace(self, table=table, parts=self.parts_apart, apart=every, on_host=on_host)


#: What a rank brings to a switch: its live state, what it holds of one, or nothing.
Source = TrainState | Held | None
