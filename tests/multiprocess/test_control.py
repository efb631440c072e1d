"""The control group: what is exchanged arrives whole, whatever its size."""

from __future__ import annotations

from datetime import timedelta

from worker_pool import WorkerPool

#: Around the size up to which one exchange is enough, and far above it.
SIZES = (0, 1, 1900, 2000, 2010, 2020, 2030, 2040, 2041, 2100, 70_000)


def gather_sizes(rank, world_size, sizes):
    from dynatrain.control import Control

    control = Control(timedelta(seconds=30))
    wrong = []
    for size in sizes:
        for small_rank in range(world_size):
            value = bytes([rank + 1]) * (1 if rank == small_rank else size)
            expected = [
                bytes([peer + 1]) * (1 if peer == small_rank else size)
                for peer in range(world_size)
            ]
            if control.gather(value) != expected:
                wrong.append((size, small_rank))
    return wrong


# Small and large values take different ways, and ranks need not bring values of one size.
def test_gathered_values_arrive_whole_whatever_their_sizes(pool: WorkerPool):
    assert pool.run(gather_sizes, SIZES, world_size=3) == [[], [], []]


def publish_some(rank, world_size):
    from dynatrain.control import Control

    control = Control(timedelta(seconds=30))
    blob = b"" if rank == 2 else b"shared" * 1000
    return [(item.blob, item.ranks) for item in control.publish(blob)]


# A blob travels once, so every rank must know whom it speaks for.
def test_equal_blobs_are_published_once_for_all_their_ranks(pool: WorkerPool):
    for published in pool.run(publish_some, world_size=4):
        assert sorted(published) == [(b"", [2]), (b"shared" * 1000, [0, 1, 3])]
