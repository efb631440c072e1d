"""How often a step has failed for what may have happened to another member."""

from __future__ import annotations

#: So often one step may fail in its communication before it is the script's own error.
_MOST = 3


class FailedSteps:
    """Counts failures of the step that failed last."""

    def __init__(self) -> None:
        self._step = -1
        self._times = 0

    def once_more(self, step: int) -> bool:
        """Takes note that a step has failed; whether that may still be another member's doing."""
        self._times = self._times + 1 if step == self._step else 1
        self._step = step
        return self._times <= _MOST
