"""Where the loop of a session stands: the step under way, and which steps count as completed."""

from __future__ import annotations

from collections.abc import Callable

from dynatrain.adapters.port import Watched


class Progress:
    """Counts the steps of all loops of a session.

    A step counts when its loop goes on behind it, and when a switch is done in the middle of it:
    all ranks have been told so. Where a loop is left in the middle, by break or an exception, it
    counts exactly if an optimizer has stepped since it began. Python tells a generator neither
    which of them it was nor when: somebody may hold it on. So the next loop settles what the last
    one has left, and a generator that ends later changes nothing.

    Attributes:
        completed: steps; the one under way is not among them.
    """

    def __init__(self) -> None:
        self.completed = 0
        self._watched = Watched(sure=False)
        self._epoch = -1
        self._num_loops = 0
        self._loop = 0  # the one that runs, 0 between two
        self._under_way = False

    @property
    def told(self) -> int:
        """Completed steps as calls name them: the step that a call stands in counts."""
        return self.completed + (1 if self._under_way else 0)

    @property
    def last_loop(self) -> int:
        """The number of the loop that was entered last, 0 before the first."""
        return self._num_loops

    def enter(self) -> int:
        """Begins a loop; returns its number."""
        self._num_loops += 1
        self._loop = self._num_loops
        return self._loop

    def begin(self, loop: int, epoch: int, watch: Callable[[], Watched]) -> None:
        """Begins a step; ``watch`` is asked for once in every epoch. Runs no C code (law 9)."""
        if epoch != self._epoch:
            self._watched, self._epoch = watch(), epoch
        self._watched.stepped = False
        self._loop, self._under_way = loop, True

    def end(self, loop: int) -> None:
        """The loop goes on behind its step."""
        if loop == self._loop:
            self.count()

    def count(self) -> None:
        """The step under way counts, if there is one."""
        if self._under_way:
            self._under_way = False
            self.completed += 1

    def leave(self, loop: int) -> bool:
        """The loop is left, maybe in the middle of a step; False when that was known already."""
        if loop != self._loop:
            return False
        if self._watched.stepped or not self._watched.sure:
            self.count()
        self._loop, self._under_way = 0, False
        return True
