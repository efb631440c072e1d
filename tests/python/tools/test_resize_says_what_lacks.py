"""`dynatrain resize` to a layout for which too few members are there says how many lack."""

from __future__ import annotations

import pytest

from dynatrain.tools.operate import _lack


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("dp=9", "dp=9 needs 9 members, 2 are there\n"),
        ("dp=2,tp=2", "dp=2,tp=2 needs 4 members, 2 are there\n"),
        ("dp=2", ""),
        ("", ""),
    ],
)
def test_a_layout_that_waits_for_members_says_for_how_many(layout, said):
    assert _lack(layout, 2) == said
