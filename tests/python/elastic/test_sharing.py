"""Memory and time for copies that all members of a host make at once, behind a failed switch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dynatrain import BudgetError, _native
from dynatrain.elastic.copies import Snapshot
from dynatrain.elastic.sharing import Sharing

CPU = torch.device("cpu")


def part(size_bytes):
    return None, SimpleNamespace(size_bytes=size_bytes), {}


@pytest.fixture
def left(monkeypatch):
    monkeypatch.setattr(_native, "available_host_bytes", lambda: 1000)


# Each has looked at the memory of the whole host: together they would take what is not there.
def test_members_of_a_host_share_its_memory(left):
    assert Sharing(1, 5.0).take_room(Snapshot(), [part(640)], CPU)
    with pytest.raises(BudgetError, match="500 bytes are left"):
        Sharing(2, 5.0).take_room(Snapshot(), [part(640)], CPU)


# Replicas may have what the other part would be.
def test_the_larger_part_is_kept_where_there_is_no_room_for_both(left):
    small, large = part(320), part(640)

    assert Sharing(1, 5.0).take_room(Snapshot(), [small, large], CPU) == [large]


# Who is late with its report is lost, with its older copies.
def test_memory_that_would_take_too_long_is_not_taken():
    slot = Snapshot()
    with pytest.raises(BudgetError, match="no time to take"):
        Sharing(1, 0.0).take_room(slot, [part(64)], CPU)

    slot.make_room(64, CPU)
    assert Sharing(1, 0.0).take_room(slot, [part(64)], CPU)
