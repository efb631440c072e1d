"""What has failed in the coordinator beside its connections: a line for each cause, no frames."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from dynatrain.given import described

_log = logging.getLogger("dynatrain.elastic")


class SaidOnce:
    """Handles what asyncio has nobody to raise to.

    Without descriptors it would say so a hundred times, with its frames, for each connection.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Logs what has failed, unless that was said before."""
        del loop
        error = context.get("exception")
        what = f"{context['message']}: {described(error)}" if error else context["message"]
        if what not in self._said:
            self._said.add(what)
            _log.error("%s; members train on, and it is not said again", what)
        _log.debug("%s", what, exc_info=error)
