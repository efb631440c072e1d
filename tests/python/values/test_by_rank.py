"""What many ranks say is told in few lines, and none of them is lost."""

from __future__ import annotations

import pytest

from dynatrain import by_rank


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([7], "rank 7"),
        ([3, 1], "ranks 1, 3"),
        ([0, 1, 2, 3, 7], "ranks 0-3, 7"),
        ([0, 1], "ranks 0-1"),
        (range(1024), "ranks 0-1023"),
    ],
)
def test_ranks_are_told_as_runs(ranks, words):
    assert by_rank.in_short(ranks) == words


# Of every other rank of a large job there are as many runs as ranks.
def test_of_many_runs_the_rest_is_counted():
    assert by_rank.in_short(range(0, 1024, 2)).endswith("28, 30 and 496 more")


def test_those_that_say_the_same_share_a_line():
    said = {2: "dp=2", 0: "tp=2", 1: "dp=2", 3: "tp=2"}

    assert by_rank.lines(said) == "  ranks 0, 3: tp=2\n  ranks 1-2: dp=2"


# A kilobyte for each of a thousand ranks, on each of them, is a gigabyte of logs.
def test_where_all_say_something_else_the_rest_is_counted():
    lines = by_rank.lines({rank: f"step {rank}" for rank in range(1024)}).splitlines()

    assert len(lines) == 17
    assert lines[-1] == "  ranks 16-1023: 1008 other things"


def test_what_others_say_is_retold_with_who_says_it():
    lines = by_rank.lines(dict.fromkeys((0, 1, 5), "see this rank"), lambda text, who: f"see {who}")

    assert lines == "  ranks 0-1, 5: see ranks 0-1, 5"
