"""The tree of groups: every part reaches rank 0 and every answer all ranks, whatever the width."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
import torch
from torch._C._distributed_c10d import HashStore

from dynatrain.generation.members import Members
from dynatrain.generation.tree import Tree

#: Ranks, and ranks of a group: one group, full ones, one that is not full, one of a single rank.
SHAPES = [(1, 1), (2, 2), (5, 5), (6, 3), (7, 3), (7, 2), (9, 4)]


def with_trees(num_ranks, width, work, timeout=timedelta(seconds=60)):
    """What ``work(rank, tree)`` returns on each rank, a thread here."""
    store = HashStore()

    def run(rank):
        tree = Tree(Members.of_ranks("a session", rank, num_ranks, store), timeout, "a test", width)
        return work(rank, tree)

    with ThreadPoolExecutor(num_ranks) as threads:
        return list(threads.map(run, range(num_ranks)))


# A part that was lost or came in another's place would be another rank's word.
@pytest.mark.parametrize(("num_ranks", "width"), SHAPES)
@pytest.mark.parametrize("size", [0, 1, 2039, 2040, 2041, 5000])
def test_every_part_goes_up_and_one_answer_comes_down(num_ranks, width, size):
    def work(rank, tree):
        own = bytes([rank]) * (size if rank % 2 else 3)
        return tree.exchange(own, lambda parts: b"|".join(parts))

    expected = b"|".join(bytes([rank]) * (size if rank % 2 else 3) for rank in range(num_ranks))
    assert with_trees(num_ranks, width, work) == [expected] * num_ranks


# Sources sit in every group, on top of one and below; some rank has nothing to send.
@pytest.mark.parametrize(("num_ranks", "width"), SHAPES)
def test_what_some_ranks_share_reaches_all(num_ranks, width):
    sources = [rank for rank in range(num_ranks) if rank != 1]
    ends = [10 * rank for rank in range(num_ranks + 1)]
    parts = {rank: slice(ends[rank], ends[rank + 1]) for rank in sources}

    def work(rank, tree):
        buffer = torch.zeros(ends[-1], dtype=torch.uint8)
        if rank in parts:
            buffer[parts[rank]] = rank + 1
        tree.share(buffer, parts)
        return buffer.tolist()

    wanted = [(rank + 1) * (rank in parts) for rank in range(num_ranks) for _ in range(10)]
    assert with_trees(num_ranks, width, work) == [wanted] * num_ranks


# A rank that never comes keeps nobody longer than the deadline, in whichever group it is.
@pytest.mark.parametrize("missing", [0, 1, 2, 4, 8])
def test_a_rank_that_does_not_answer_ends_every_wait(missing):
    all_gave_up = Barrier(9)  # until then its connections stand

    def work(rank, tree):
        if rank == missing:
            all_gave_up.wait(60)
            return None
        try:
            return tree.exchange(b"here", lambda parts: b"".join(parts))
        except RuntimeError:
            all_gave_up.wait(60)
            return "gave up"

    results = with_trees(9, 3, work, timeout=timedelta(seconds=1))
    assert results == [None if rank == missing else "gave up" for rank in range(9)]
