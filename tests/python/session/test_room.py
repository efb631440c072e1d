"""Whether what all ranks need of memory fits."""

from __future__ import annotations

import pytest

from dynatrain import BudgetError
from dynatrain.switch.room import Room, check_fit, fit

#: Each needs 60 of the 100 bytes that it sees left.
ALONE = Room("node 0", 60, 100, "container a")
BESIDE = Room("node 0", 60, 100, "container a")
APART = Room("node 0", 60, 100, "container b")


# Ranks of one container share its limit; those of another have their own, and were refused for it.
def test_what_is_left_in_a_container_is_for_its_own_ranks():
    assert fit([ALONE, APART])
    assert not fit([ALONE, BESIDE, APART])
    check_fit([ALONE, APART])
    with pytest.raises(BudgetError, match=r"needs 120 bytes .* on node 0"):
        check_fit([ALONE, BESIDE, APART])


# The rank that sees least of a memory is right: others looked before it was taken.
def test_of_one_memory_the_least_that_a_rank_sees_counts():
    assert not fit([ALONE, Room("node 0", 30, 80, "container a")])
    assert fit([ALONE, Room("node 1", 30, 40, "container a")])
