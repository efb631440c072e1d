"""What a script reads of its session: where it stands, and with what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dynatrain._errors import LayoutError
from dynatrain.generation.world import World
from dynatrain.layout import Layout
from dynatrain.progress import Progress
from dynatrain.switch.present import Present
from dynatrain.train_state import TrainState


class Position:
    """The present place of one rank; see :class:`dynatrain.Session`.

    Args:
        who: this rank or member, in words.
        device: where parameters live.
        seed: of random streams that belong to a coordinate.
    """

    def __init__(self, who: str, device: torch.device, seed: int) -> None:
        self._who = who
        self._device = device
        self._now = Present(seed)
        self._progress = Progress()

    @property
    def state(self) -> TrainState:
        """The present training state.

        Raises:
            LayoutError: this rank idles, or a switch earlier in the body of the loop took ranks in:
                the step is over, and they begin with the next one.
            InternalError: it could not learn how the vote on a switch ended.
        """
        self._now.check_decided()
        self._progress.check_not_over("session.state")
        if self._now.state is None:
            raise self._idle("state")
        return self._now.state

    @property
    def world(self) -> World:
        """The present world; raises as :attr:`state` does."""
        self._now.check_decided()
        self._progress.check_not_over("session.world")
        if self._now.world is None:
            raise self._idle("world")
        return self._now.world

    @property
    def active(self) -> bool:
        """Whether this rank takes part in the present layout."""
        return self._now.world is not None

    @property
    def layout(self) -> Layout:
        """The present layout, also known to ranks that idle.

        Raises:
            LayoutError: this member has joined a job and knows of no world yet.
        """
        if self._now.layout is None:
            raise self._idle("layout")
        return self._now.layout

    @property
    def device(self) -> torch.device:
        """Where parameters of this rank live, also while it idles."""
        return self._device

    @property
    def step(self) -> int:
        """Completed steps of the loop, the one under way not counted."""
        return self._progress.completed

    @property
    def keep(self) -> Mapping[str, Any]:
        """The kept objects, by name."""
        return dict(self._now.keep)

    def _idle(self, what: str) -> LayoutError:
        layout = self._now.layout
        where = "waits for its first world" if layout is None else f"idles in {layout}"
        return LayoutError(
            f"session: {self._who} {where} and has no {what}\n"
            "  expected a rank that has a place in the present layout\n"
            "  nothing was changed\n"
            "  let session.steps() drive the loop, or ask session.active first"
        )
