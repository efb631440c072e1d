"""A member that stands still tells why, and what would help."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from socket import gethostname

_log = logging.getLogger("dynatrain.elastic")


#: Between two lines that nobody has answered.
_UNANSWERED_S = 60.0
#: So long a coordinator that is there may take for its first word.
_ANSWERS_S = 2.0


class Unanswered:
    """Tells who this process is, and that no coordinator answers, as long as none ever has.

    Args:
        member: id of this process in the job.
        addresses: that it asks.
        patience_s: how long it does.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        member: int,
        addresses: str,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._asked = addresses
        self._patience_s = patience_s
        self._clock = clock
        self._again_s = clock() + _ANSWERS_S
        self._has_answered = False
        _log.info("this process, %d on %s, is member %d", os.getpid(), gethostname(), member)

    def told(self, *, is_there: bool) -> None:
        """Whether a coordinator is there; to be told after each attempt."""
        self._has_answered = self._has_answered or is_there
        if self._has_answered or self._clock() < self._again_s:
            return
        self._again_s = self._clock() + _UNANSWERED_S
        _log.warning(
            "no coordinator answers at %s; this process asks for %g s (ten times timeout_s)\n"
            "  look whether `dynatrain coordinator` runs there, and listens on that address",
            self._asked,
            self._patience_s,
        )


class Standstill:
    """Tells at once, when the reason is another one, and again every ``every_s``.

    Args:
        every_s: between two lines of one reason.
        clock: seconds that never go back.
    """

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._told: tuple[str, float] | None = None

    def told(self, why: str, *, is_gone: bool, trains_later: bool) -> None:
        """The coordinator says why nothing goes on.

        Args:
            why: in words.
            is_gone: the state cannot be put together from what members hold.
            trains_later: this member is in no world, and waits for its place.
        """
        now = self._clock()
        if self._told is not None and self._told[0] == why and now < self._told[1] + self._every_s:
            return
        self._told = why, now
        if is_gone:
            _log.warning(
                "training stands still, and what is missing is nowhere: %s\n"
                "  a checkpoint of this job that members can read would help, and nothing else\n"
                "  without one this member soon ends with an error",
                why,
            )
        else:
            level = logging.INFO if trains_later else logging.WARNING
            _log.log(
                level,
                "nothing is trained here: %s\n"
                "  it goes on by itself when that has changed; `dynatrain status` tells who "
                "is there",
                why,
            )

    def goes_on(self) -> None:
        """Something is done again: the same reason, later, is told anew."""
        self._told = None
