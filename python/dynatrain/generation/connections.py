"""The connections of groups, ended together from any thread, so that nobody hangs in them."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import Store

from dynatrain._errors import TransportError
from dynatrain._torch_private.gloo_links import Links, cut, give_up_after, links_of


class Connections:
    """Those of the groups that were noted; once they are cut, no further group is made.

    Args:
        patience: a connection ends when the host on its other side has not answered for so long.
    """

    def __init__(self, patience: timedelta) -> None:
        self.patience = patience
        self._lock = threading.Lock()
        self._links: list[Links] = []
        self._backends: list[Any] = []
        self._why = ""

    @property
    def are_cut(self) -> bool:
        """Whether they have been ended."""
        return bool(self._why)

    def check(self) -> None:
        """Raises TransportError where they have been cut."""
        if self._why:
            raise TransportError(
                f"elastic: the groups of this world were ended: {self._why}\n"
                "  expected what is done over them to be given up\n"
                "  the state is as it was, but for the step that was under way\n"
                "  the loop goes on with the members that remain"
            )

    def note(self, store: Store, prefix: str, place: tuple[int, int]) -> None:
        """A group of Gloo was made in ``store``; ``place`` is this rank and the number of ranks.

        Raises:
            TransportError: they have been cut.
        """
        links = links_of(store, prefix, *place)
        with self._lock:
            if links is not None:
                self._links.append(links)
                give_up_after([links], self.patience.total_seconds())
            if self._why:
                cut(self._links)
        self.check()

    def note_backend(self, backend: Any) -> None:
        """A group was made of a backend that can end what hangs by itself, as NCCL can.

        Raises:
            TransportError: the connections have been cut.
        """
        with self._lock:
            self._backends.append(backend)
            if self._why:
                _abort(backend)
        self.check()

    def cut(self, why: str) -> None:
        """Ends all that waits for a peer in one of the groups, here and on the peers."""
        with self._lock:
            self._why = self._why or why
            cut(self._links)
            for backend in self._backends:
                _abort(backend)


def _abort(backend: Any) -> None:
    with suppress(Exception):  # it has ended by itself
        backend.abort()
