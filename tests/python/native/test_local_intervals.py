"""local_intervals against torch's own offsets, where torch has one box and is known to be right.

Uneven strided shards are not compared: torch's function returns one box for what are several.
"""

from __future__ import annotations

import itertools
import math

import pytest
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import _StridedShard


def ours(shape, mesh_shape, coordinate, placements):
    """(local shape, offset) as torch gives them, from one interval per dimension."""
    from dynatrain import _native

    as_pairs = [
        (-1, 1)
        if isinstance(p, Replicate)
        else (p.dim, p.split_factor if isinstance(p, _StridedShard) else 1)
        for p in placements
    ]
    dims = _native.local_intervals(shape, mesh_shape, coordinate, as_pairs)
    assert all(len(intervals) <= 1 for intervals in dims), "torch has one box here"
    sizes = tuple(sum(end - begin for begin, end in intervals) for intervals in dims)
    return sizes, tuple(intervals[0][0] if intervals else None for intervals in dims)


def check_everywhere(shape, mesh_shape, placements):
    for coordinate in itertools.product(*(range(n) for n in mesh_shape)):
        sizes, offsets = _compute_local_shape_and_global_offset(
            shape, mesh_shape, list(coordinate), placements
        )
        our_sizes, our_offsets = ours(shape, mesh_shape, coordinate, placements)
        assert our_sizes == tuple(sizes)
        if 0 not in sizes:  # where nothing is held torch gives an offset all the same
            assert our_offsets == tuple(offsets)


# A model sharded by torch must be read as torch cut it, the last short and empty parts included.
@pytest.mark.parametrize("length", range(1, 14))
def test_uneven_plain_shard_is_as_torch_cuts_it(length: int):
    for parts in range(1, 9):
        check_everywhere((3, length), (parts,), [Shard(1)])


# HSDP, TP by columns and rows, two mesh dimensions on one tensor dimension.
@pytest.mark.parametrize(
    "placements",
    [
        [Replicate(), Shard(0)],
        [Shard(0), Replicate()],
        [Shard(0), Shard(1)],
        [Shard(1), Shard(0)],
        [Shard(0), Shard(0)],
        [Replicate(), Replicate()],
    ],
)
def test_two_mesh_dimensions_are_as_torch_cuts_them(placements: list):
    for mesh_shape in itertools.product(range(1, 5), repeat=2):
        for shape in [(12, 12), (7, 5), (3, 16), (1, 2)]:
            check_everywhere(shape, mesh_shape, placements)


# FSDP inside TP, as fully_shard makes it, where both cuts divide the tensor.
def test_even_strided_shard_is_as_torch_cuts_it():
    for dp, tp in itertools.product(range(1, 5), repeat=2):
        length = 2 * math.prod((dp, tp))
        placements = [_StridedShard(0, split_factor=tp), Shard(0)]
        check_everywhere((length, 3), (dp, tp), placements)
