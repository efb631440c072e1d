"""What an adapter sees and keeps of the steps of a state; a part of the port."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass
class Watched:
    """What an adapter sees of the optimizers of a state while it trains.

    Attributes:
        stepped: whether one of them has stepped since this was last set to False.
        sure: False where one may step without being seen, and where there is none.
    """

    stepped: bool = False
    sure: bool = True


class StepGuard(ABC):
    """Keeps what a step changes, so that one that failed for another rank can be taken back."""

    @abstractmethod
    def begin(self) -> None:
        """A step begins."""

    @abstractmethod
    def end(self) -> None:
        """The step has ended."""

    @abstractmethod
    def undo(self) -> int | None:
        """The step has failed: lets go of what it holds, and says how far the state has come.

        0 steps: it is as the step began with; 1: all had been done; None: it is neither.
        """

    @property
    @abstractmethod
    def can_go_back(self) -> bool:
        """Whether the last step that was done can be taken back."""

    @abstractmethod
    def go_back(self) -> bool:
        """Takes back the last step that was done; False where the state is torn by it."""
