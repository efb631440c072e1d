"""Attempts under way: given up and made at the same moment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest

from dynatrain import TransportError
from dynatrain.elastic.underway import Underway
from dynatrain.generation.connections import Connections


@dataclass
class FakeReady:
    """An attempt whose generation notes that it is closed."""

    is_closed: bool = False

    @property
    def generation(self):
        return self

    def close(self, *, in_store):
        self.is_closed = True


# Its groups would stay for ever: nobody drops it a second time.
def test_an_attempt_that_was_dropped_while_it_connected_is_closed():
    attempts, ready, connections = Underway(), FakeReady(), Connections(timedelta(seconds=5))
    attempts.begin(3, connections)
    attempts.abort(3, "it was given up")
    attempts.drop(3)

    with pytest.raises(TransportError):
        attempts.stand(3, ready, connections)

    assert ready.is_closed
    assert attempts.find(3) is None
