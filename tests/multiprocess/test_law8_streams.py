"""Law 8: random streams go on over a switch, or are derived by the rule where ranks differ."""

from __future__ import annotations

import random

import numpy as np
import torch

from sessions import start


def draw_everywhere():
    return random.random(), np.random.rand(), torch.rand(1).item()


def switch_with_streams(rank, world_size, differ):
    """Draws before, during and after switches dp=3 -> dp=4 -> dp=2; returns the draws."""
    session = start("dp=3", seed=11)
    # A rank that joins stands elsewhere; one that trains stands at the common place, or at its own.
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5 + (rank if differ else 0) + (70 if rank == 3 else 0))
    draws = []
    for step in session.steps(3):
        draws.append((step, draw_everywhere()))
        if step < 2:
            session.switch(["dp=4", "dp=2"][step])
    return draws


# Law 8: a stream that all ranks share belongs to the run, not to its layout.
def test_law8_streams_that_are_equal_go_on_as_if_nothing_had_happened(pool):
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    unswitched = [(step, draw_everywhere()) for step in range(3)]

    results = pool.run(switch_with_streams, False)

    assert results[0] == results[1] == unswitched
    assert results[2] == unswitched[:2]
    assert results[3] == unswitched[1:2]


# Dropout of one rank has no continuation in another layout. It must differ between ranks, and be
# the same when the run is repeated.
def test_law8_streams_that_differ_are_derived_by_the_rule_and_repeat(pool):
    first = pool.run(switch_with_streams, True)
    second = pool.run(switch_with_streams, True)

    assert first == second
    torch_draws = [draw[2] for draws in first for _, draw in draws]
    assert len(set(torch_draws)) == len(torch_draws) == 3 + 3 + 2 + 1
    python_draws = {(step, draw[0]) for draws in first for step, draw in draws}
    assert len(python_draws) == 3
