"""Where the loop of a session stands: the step under way, and which steps count as completed."""

from __future__ import annotations

from collections.abc import Callable

from dynatrain._errors import LayoutError
from dynatrain.adapters.port import Watched
from dynatrain.generation.world import World


class Progress:
    """Counts the steps of all loops of a session.

    A step counts when its loop goes on behind it, and when a switch is done in the middle of it:
    all ranks have been told so. Where a loop is left in the middle, by break or an exception, it
    counts exactly if an optimizer has stepped since it began. Python tells a generator neither
    which of them it was nor when: somebody may hold it on. So the next loop settles what the last
    one has left, and a generator that ends later changes nothing.

    Attributes:
        completed: steps; the one under way is not among them.
        is_torn: the state is of no whole number of steps, as one was cut short.
    """

    def __init__(self) -> None:
        self.completed = 0
        self.is_torn = False
        self._watched = Watched(sure=False)
        self._epoch = -1
        self._num_loops = 0
        self._loop = 0  # the one that runs, 0 between two
        self._under_way = False
        self._in_body = False
        self._over: World | None = None  # what a switch that took ranks in has made

    @property
    def told(self) -> int:
        """Completed steps as calls name them: the step that a call stands in counts."""
        return self.completed + (1 if self._under_way else 0)

    @property
    def running(self) -> int:
        """The number of the loop that runs, 0 between two: steps tell its calls apart."""
        return self._loop

    def enter(self) -> int:
        """Begins a loop; returns its number."""
        self._num_loops += 1
        self._loop = self._num_loops
        return self._loop

    def begin(self, loop: int, epoch: int, watch: Callable[[], Watched]) -> None:
        """Begins a step; ``watch`` is asked for once in every epoch. Runs no C code (law 9)."""
        if loop != self._loop:
            self.leave(self._loop)  # a loop inside of this one, left and held on
        if epoch != self._epoch:
            self._watched, self._epoch = watch(), epoch
        self._watched.stepped = False
        self._loop = loop
        self._under_way = self._in_body = True

    def end(self, loop: int) -> None:
        """The loop goes on behind its step."""
        if loop == self._loop:
            self.count()
            self._end_body()

    def count(self) -> None:
        """The step under way counts, if there is one."""
        if self._under_way:
            self._under_way = False
            self.completed += 1

    def fail(self, gained: int | None) -> None:
        """The step under way has failed for another rank.

        ``gained`` steps are completed by it, 0 or 1; None where the state is torn by it.
        """
        self._under_way = False
        self.is_torn = gained is None
        self.completed += gained or 0

    def leave(self, loop: int) -> bool:
        """The loop is left, maybe in the middle of a step; False when that was known already."""
        if not loop or loop != self._loop:
            return False
        if self._watched.stepped or not self._watched.sure:
            self.count()
        self._loop, self._under_way = 0, False
        self._end_body()
        return True

    def joined(self, world: World) -> None:
        """Ranks have joined in ``world``: what is left of the body is behind its step.

        They begin with the next step, and what a script does together with them here would meet
        what they do there.
        """
        if self._in_body:
            self._over = world
            world.withhold(str(_behind("its meshes and groups were", world)))

    def check_not_over(self, what: str) -> None:
        """Raises LayoutError where ranks that joined have begun the next step already."""
        if self._over is not None:
            raise _behind(f"{what} was", self._over)

    def _end_body(self) -> None:
        self._in_body = False
        if self._over is not None:
            self._over.give_back()
            self._over = None


def _behind(what: str, world: World) -> LayoutError:
    return LayoutError(
        f"session: {what} asked for behind a switch to {world.layout} that took further ranks in\n"
        "  expected nothing behind it in the body of the loop: the step is over, and ranks that "
        "joined begin with the next one\n"
        "  nothing was changed; the switch is done, and its state is intact\n"
        "  make the switch the last thing in the body, or let `continue` follow it"
    )
