"""What a switch knows of ranks that differ in tp alone: whether they held different contents."""

from __future__ import annotations

import pytest

from dynatrain.generation.control import listing
from dynatrain.layout import Layout
from dynatrain.switch.values import _all_read

NAME = "per_rank/stream.torch.cpu"


@pytest.mark.parametrize(
    ("layout", "contents", "apart"),
    [
        ("dp=2,tp=2", "aabb", []),
        ("dp=2,tp=2", "abcd", [NAME]),
        ("dp=2,tp=2", "aabc", [NAME]),
        ("dp=4", "abcd", []),
        ("pp=2,tp=2", "aabb", []),
        ("tp=2", "aabc", []),  # those that idle have no say
        ("tp=4", "aaaa", []),
    ],
)
def test_ranks_are_told_apart_where_tp_alone_is_between_them(layout, contents, apart):
    source = Layout.parse(layout)
    answers = [(listing({NAME: content.encode()}), None) for content in contents]
    places = [rank if rank < source.world_size else None for rank in range(len(contents))]

    _, _, told_apart, _ = _all_read(answers, places, source)

    assert told_apart == apart


# Members keep their ids from world to world, not their ranks.
def test_it_goes_by_the_place_of_a_rank_and_not_by_its_number():
    answers = [(listing({NAME: content}), None) for content in (b"a", b"b", b"a", b"b")]

    _, _, told_apart, _ = _all_read(answers, [0, 2, 1, 3], Layout.parse("dp=2,tp=2"))

    assert told_apart == []
