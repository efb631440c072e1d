"""The attempts that a member takes part in, from when it connects to when they are decided."""

from __future__ import annotations

import threading

from dynatrain.elastic.ready import Ready
from dynatrain.generation.connections import Connections


class Underway:
    """Attempts by their numbers; in any thread.

    A later one may be under way before an earlier one is let go of.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready: dict[int, Ready] = {}
        self._connections: dict[int, Connections] = {}

    def begin(self, attempt: int, connections: Connections) -> None:
        """An attempt connects."""
        with self._lock:
            self._connections[attempt] = connections

    def stand(self, attempt: int, ready: Ready, connections: Connections) -> None:
        """Its generation stands; closed here where these were cut, as it was given up meanwhile.

        Raises:
            TransportError: it was.
        """
        with self._lock:
            is_over = connections.are_cut
            if not is_over:
                self._ready[attempt] = ready
        if is_over:
            ready.generation.close(in_store=False)
            connections.check()

    def find(self, attempt: int) -> Ready | None:
        """One whose generation stands; None where it does not, or was given up."""
        with self._lock:
            return self._ready.get(attempt)

    def abort(self, attempt: int, why: str) -> None:
        """Ends what waits for other members in it."""
        with self._lock:
            ready, connections = self._ready.get(attempt), self._connections.get(attempt)
        if connections is not None:
            connections.cut(why)
        if ready is not None:
            ready.slices.end(why)
            ready.generation.abort(why)

    def abort_all(self, why: str) -> None:
        """The same in each."""
        with self._lock:
            attempts = [*self._connections]
        for attempt in attempts:
            self.abort(attempt, why)

    def drop(self, attempt: int) -> None:
        """Lets go of one that comes to nothing."""
        with self._lock:
            ready = self._ready.pop(attempt, None)
            self._connections.pop(attempt, None)
            is_used = ready is not None and ready.ahead.running()  # its thread closes it then
        if ready is not None and not is_used:
            ready.generation.close_beside()

    def decided(self, attempt: int) -> None:
        """One was decided: it and earlier ones are under way no more."""
        with self._lock:
            for there in (self._ready, self._connections):
                for each in [each for each in there if each <= attempt]:
                    del there[each]
