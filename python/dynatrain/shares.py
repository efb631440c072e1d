"""How a batch is cut among ranks, and a share into micro-batches: as evenly as can be."""

from __future__ import annotations


def run(num_items: int, num_runs: int, index: int) -> range:
    """The ``index``-th of the runs; sizes differ by one at most, and the larger ones are first."""
    size, num_larger = divmod(num_items, num_runs)
    begin = index * size + min(index, num_larger)
    return range(begin, begin + size + (index < num_larger))


def num_micro_batches(num_items: int, num_ranks: int, most: int) -> int:
    """Into how many pieces of at most ``most`` items the largest of the ranks' shares is cut."""
    return -(-len(run(num_items, num_ranks, 0)) // most)
