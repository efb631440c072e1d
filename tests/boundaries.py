"""Trouble of one rank, before or after the n-th exchange of all ranks in a switch.

What all ranks publish beside an exchange, each distinct thing once, is a boundary of its own.
"""

from __future__ import annotations

import dynatrain


class Boundaries:
    """Counts the exchanges of a rank, and makes trouble at one of them."""

    def __init__(self, part, number=0, side="", trouble=None):
        self.count, self.hits = 0, 0
        self._number, self._side, self._trouble = number, side, trouble
        control, meeting = part.engine.control, part.generation.meeting
        for owner, name in ((control, "agree"), (control, "publish"), (meeting, "meet")):
            setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, exchange):
        def run(*args, **kwargs):
            self.count += 1
            here = self.count == self._number
            if here and self._side == "before":
                self._hit()
            answer = exchange(*args, **kwargs)
            if here and self._side == "after":
                self._hit()
            return answer

        return run

    def _hit(self):
        self.hits += 1
        self._trouble()


def run_out():
    """As an allocation that fails."""
    raise MemoryError("no memory here")


def outcome_of(call):
    """What a call of the library raised, or None."""
    try:
        call()
    except (dynatrain.Error, KeyboardInterrupt, MemoryError) as error:
        return error
    return None
