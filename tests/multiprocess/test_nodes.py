"""Ranks of several nodes, which here are processes that take different names for their own."""

from __future__ import annotations

import dynatrain
import training_jobs as jobs
from dynatrain import arguments


def pairs_of_switch(rank, world_size):
    arguments.node_name = lambda: f"node {rank // 2}"
    session = dynatrain.init(
        jobs.build, "dp_replicate=2,dp=2", initialize=jobs.initialize, timeout_s=20
    )
    report = session.switch("dp=4")
    return sorted({(src, dst) for src, dst, _ in report.traffic})


# Ranks 0 and 2 hold one half, 1 and 3 the other; rank 1 lacks a quarter of the first half, rank 2
# one of the second. The planner knew of nodes, and a live switch told it none: half of the bytes
# came from the far one.
def test_ranks_are_served_by_their_own_node(pool):
    results = pool.run(pairs_of_switch)
    pool.close()  # the workers' library is patched

    assert results == [[(0, 1), (3, 2)]] * 4
