"""What is over and has left keys in a store: deleted by one process, where it has time for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from torch._C._distributed_c10d import Store

#: Keys that are deleted between two looks at whether the wait is over.
_AT_ONCE = 64


class Leftovers:
    """Keys to be deleted; each store call of it may block as any other one of that store."""

    def __init__(self) -> None:
        self._purposes: list[tuple[Store, str]] = []
        self._keys: list[tuple[Store, str]] = []

    def add(self, store: Store, purpose: str) -> None:
        """Gives up all keys of a purpose; nobody asks for one of them any more."""
        self._purposes.append((store, purpose))

    def add_keys(self, store: Store, keys: Iterable[str]) -> None:
        """Gives up these keys."""
        self._keys.extend((store, key) for key in keys)

    def sweep(self, is_over: Callable[[], bool]) -> None:
        """Deletes until nothing is left or ``is_over()``; what cannot be deleted stays."""
        with suppress(Exception):  # who cannot clean up goes on all the same
            while (self._purposes or self._keys) and not is_over():
                if not self._keys:
                    self._keys = keys_of(*self._purposes.pop())
                batch, self._keys = self._keys[:_AT_ONCE], self._keys[_AT_ONCE:]
                for store, key in batch:
                    store.delete_key(key)


def keys_of(store: Store, purpose: str) -> list[tuple[Store, str]]:
    """The keys of a purpose; a store lists those of others, too, whose names begin alike."""
    return [(store, key) for key in store.list_keys() if key.startswith(f"{purpose}/")]
