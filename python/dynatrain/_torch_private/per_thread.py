"""Functions of torch that answer some threads otherwise than all others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class PerThread:
    """A name in a module of torch that means something else in threads that want it to.

    Threads come and go in any order: what stands there goes back with the last of them, so that
    none puts back what another one has put there.

    Args:
        module: of torch.
        name: in it.
        stand_in: makes what stands there meanwhile, of what did before and of a function that says
            what this thread wants, None where it wants nothing.
    """

    def __init__(
        self, module: Any, name: str, stand_in: Callable[[Any, Callable[[], Any]], Any]
    ) -> None:
        self._module, self._name, self._stand_in = module, name, stand_in
        self._wants = threading.local()
        self._lock = threading.Lock()
        self._num_users = 0
        self._original: Any = None

    @contextmanager
    def wanting(self, what: Any) -> Iterator[None]:
        """Has it mean what ``what`` says inside, in this thread."""
        before = self._own()
        with self._lock:
            self._num_users += 1
            if self._num_users == 1:
                self._original = getattr(self._module, self._name)
                setattr(self._module, self._name, self._stand_in(self._original, self._own))
        self._wants.what = what
        try:
            yield
        finally:
            self._wants.what = before
            with self._lock:
                self._num_users -= 1
                if self._num_users == 0:
                    setattr(self._module, self._name, self._original)

    def _own(self) -> Any:
        return getattr(self._wants, "what", None)
