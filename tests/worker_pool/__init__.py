"""Real processes for tests: started once, used by every test, each wait with a deadline.

A test gets the session's pool by the fixture `pool` and gives it one module-level function:

    def add_ranks(rank, world_size, offset):
        total = torch.tensor(rank + offset)
        dist.all_reduce(total)
        return int(total)

    def test_all_reduce_adds_every_rank(pool):
        assert pool.run(add_ranks, 10, world_size=4) == [46] * 4

Every run gets a fresh default Gloo group on a store prefix of its own, seeded generators and one
thread per process; what a run leaves behind is cleared. A rank that raises, hangs or dies is named
in the error, with its traceback or its stacks, and the pool starts new processes for the next run.
"""

from worker_pool.pool import RankError, WorkerPool

__all__ = ["RankError", "WorkerPool"]
