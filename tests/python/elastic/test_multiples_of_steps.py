"""At which completed steps copies are made and written: multiples of what was asked for."""

from __future__ import annotations

import pytest

from dynatrain.elastic.cadence import Cadence


def boundaries(cadence, num, margin=1):
    """The first ones of a world that begins at step 0, of members that are never late."""
    due = cadence.first(margin)
    found = [due]
    while len(found) < num:
        due = cadence.following(due, due + margin)
        found.append(due)
    return found


# snapshot_every=10 gave copies after 1, 11, 21 steps, and checkpoint_every=20 a first "step-21".
@pytest.mark.parametrize(
    ("every", "found"), [(10, [1, 10, 20, 30]), (1, [1, 2, 3, 4]), (2, [1, 2, 4, 6])]
)
def test_copies_follow_at_multiples_behind_the_first(every, found):
    assert boundaries(Cadence(every), 4) == found


def test_checkpoints_beside_snapshots_are_written_at_multiples():
    cadence, last, written = Cadence(10, 20), 0, []
    for version in boundaries(cadence, 8):
        if cadence.is_checkpoint(version, last):
            written.append(version)
            last = version

    assert written == [20, 40, 60]


def test_checkpoints_alone_are_written_at_multiples():
    assert boundaries(Cadence(None, 20), 3) == [20, 40, 60]


# A loss is said to cost that many steps at most. The multiple behind a world's first copy was left
# out where it was near: it cost half as many more.
@pytest.mark.parametrize(("begins", "following"), [(132, 140), (136, 140), (139, 140), (140, 150)])
def test_a_world_that_begins_near_a_multiple_copies_there_all_the_same(begins, following):
    assert Cadence(10).following(begins, begins + 1) == following


def test_who_is_late_copies_at_the_next_multiple_that_all_can():
    assert Cadence(10).following(10, 23) == 30
