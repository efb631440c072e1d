"""Who writes which box of a checkpoint, where several members have it."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest

from dynatrain.elastic.checkpoint_shares import writers_of


class Owned:
    """A map of tensors in rows of 8 bytes, by name: how many rows each box has, and its owners."""

    def __init__(self, boxes_of):
        self.boxes_of = boxes_of

    def names(self):
        return [*self.boxes_of]

    def info(self, name):
        return [sum(rows for rows, _ in self.boxes_of[name])], "float64", 8

    def owners(self, name):
        ends = list(accumulate((rows for rows, _ in self.boxes_of[name]), initial=0))
        ranks = [ranks for _, ranks in self.boxes_of[name]]
        return [([b], [e], own) for b, e, own in zip(ends[:-1], ends[1:], ranks, strict=True)]


# Owners of many tensors are put in order once; that must not cost the balance between the ranks, of
# which some own parts of several groups.
@pytest.mark.parametrize("seed", range(20))
def test_each_box_is_written_by_the_owner_that_writes_the_least_so_far(seed):
    draw = random.Random(seed)
    groups = [sorted(draw.sample(range(12), draw.randint(1, 12))) for _ in range(5)]
    boxes_of = {
        f"tensor {n}": [
            (draw.randint(1, 9), draw.choice(groups)) for _ in range(draw.randint(1, 3))
        ]
        for n in range(60)
    }
    found, loads = writers_of(Owned(boxes_of)), [0] * 12
    for name, boxes in boxes_of.items():
        least = []
        for rows, ranks in boxes:
            least.append(min(ranks, key=lambda rank: (loads[rank], rank)))
            loads[least[-1]] += rows
        chosen = found.get(name, [(None, rank) for _, (rank, *_) in boxes])
        assert [rank for _, rank in chosen] == least, f"seed {seed}"
