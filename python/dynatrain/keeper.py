"""The steps of a member, of which one can be taken back where another member has cut it short."""

from __future__ import annotations

from typing import Any

from dynatrain.adapters.port import Adapter, StepGuard
from dynatrain.progress import Progress
from dynatrain.switch.calls import cursors_of, put_back
from dynatrain.switch.present import Present
from dynatrain.train_state import TrainState


class StepKeeper:
    """Keeps what the steps of a rank change: of its state, and where its kept loaders stood.

    Args:
        adapter: of the state's framework.
        present: what the rank is now.
        progress: where its loop stands.
    """

    def __init__(self, adapter: Adapter[Any], present: Present, progress: Progress) -> None:
        self._adapter = adapter
        self._now = present
        self._progress = progress
        self._of: TrainState | None = None
        self._guard: StepGuard | None = None
        #: Where kept loaders stood when a step began, by the steps that were completed then.
        self._cursors: dict[int, dict[str, int]] = {}

    def begin(self) -> None:
        """A step begins."""
        state, world = self._now.state, self._now.world
        assert state is not None
        assert world is not None
        if self._of is not state or self._guard is None:
            replicas = world.size("dp_replicate")
            # Whole replicas are of one version each; of no replicas, a part is lost in any case.
            keeps_previous = 1 < replicas < world.world_size
            self._guard = self._adapter.step_guard(state, keeps_previous=keeps_previous)
            self._of, self._cursors = state, {}
        self._guard.begin()
        step = self._progress.completed
        self._cursors = {step: cursors_of(self._now.keep), **self._before(step)}

    def _before(self, step: int) -> dict[int, dict[str, int]]:
        return {each: found for each, found in self._cursors.items() if each == step - 1}

    def end(self) -> None:
        """The step has ended."""
        assert self._guard is not None
        self._guard.end()

    def fail(self) -> None:
        """The step has failed: takes it back, unless it is done but for its tail."""
        assert self._guard is not None
        step, gained = self._progress.completed, self._guard.undo()
        if not gained:
            put_back(self._now.keep, self._cursors[step])
        self._progress.fail(gained)

    def forget(self) -> None:
        """Lets go of what it keeps, with the memory of copies: the state was replaced."""
        self._of = self._guard = None
        self._cursors = {}

    @property
    def previous(self) -> int | None:
        """The version before the present one where that can be gone back to, else None."""
        if self._of is not self._now.state or self._guard is None or not self._guard.can_go_back:
            return None
        version = self._progress.completed - 1
        return version if version in self._cursors else None

    def go_back(self) -> None:
        """Is at the previous version again, or torn where a step wrote what none did before."""
        version = self.previous
        assert version is not None
        assert self._guard is not None
        with self._adapter.undisturbed():
            if not self._guard.go_back():
                self._progress.is_torn = True
                return
        put_back(self._now.keep, self._cursors[version])
        self._progress.completed = version
