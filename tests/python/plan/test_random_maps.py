"""Random pairs of maps against an oracle that paints every element of every tensor.

The oracle cuts arrays of element numbers as torch.chunk would, and knows nothing of boxes, cells or
owners' lists; the native module is given descriptors as a session would publish them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest

NUM_CHUNKS, PAIRS_PER_CHUNK = 20, 260
ITEMSIZES = {"float32": 4, "bfloat16": 2, "bool": 1, "complex128": 16}


def native():
    from dynatrain import _native

    return _native


# --- the oracle's view: which elements a rank holds -----------------------------------------------


@dataclass
class Image:
    """One tensor under one layout: who holds what, and how each rank says so."""

    held: dict[int, np.ndarray] = field(default_factory=dict)  # rank -> element numbers it holds
    publish: dict[int, tuple] = field(default_factory=dict)  # rank -> (method, arguments)


def chunk(array, dim, parts, index):
    """torch.chunk's rule: parts of ceil(length / parts), the last ones shorter or empty."""
    step = math.ceil(array.shape[dim] / parts)
    positions = range(index * step, min((index + 1) * step, array.shape[dim]))
    return array.take(positions, axis=dim)


def cut(array, placement, parts, index, is_inside_later_ones):
    """What one mesh dimension leaves of an array to its coordinate `index`."""
    dim, split_factor = placement
    if dim < 0:
        return array
    if split_factor == 1 or is_inside_later_ones:
        return chunk(array, dim, parts, index)
    pieces = [chunk(array, dim, split_factor, piece) for piece in range(split_factor)]
    return np.concatenate([chunk(piece, dim, parts, index) for piece in pieces], axis=dim)


def order_of_cuts(mesh_shape, placements):
    """Mesh dimensions in the order in which they cut: FSDP inside TP comes after TP."""
    order, inside = [], set()
    for axis in reversed(range(len(placements))):
        dim, split_factor = placements[axis]
        later = [a for a in range(axis + 1, len(placements)) if placements[a][0] == dim]
        product = math.prod(mesh_shape[a] for a in later)
        if dim >= 0 and split_factor > 1 and split_factor == product:
            order.append(axis)
            inside.add(axis)
        else:
            order.insert(0, axis)
    return order, inside


def compact(rng, shape, ranks, split=True):
    """A mesh over all of `ranks`, placements at random."""
    mesh_shape = factorize(rng, len(ranks))
    placements = []
    for axis in range(len(mesh_shape)):
        dim = int(rng.integers(-1, len(shape)))
        later = math.prod(
            mesh_shape[a] for a in range(axis + 1, len(mesh_shape)) if rng.integers(2)
        )
        strided = split and dim >= 0 and rng.integers(3) == 0
        placements.append((dim, max(1, later if strided else 1)))
    image = Image()
    order, inside = order_of_cuts(mesh_shape, placements)
    numbers = np.arange(math.prod(shape)).reshape(shape)
    for place, rank in enumerate(ranks):
        at = np.unravel_index(place, mesh_shape)
        local = numbers
        for axis in order:
            local = cut(local, placements[axis], mesh_shape[axis], int(at[axis]), axis in inside)
        image.held[rank] = local.ravel()
        strides = [math.prod(local.shape[d + 1 :]) for d in range(local.ndim)]
        image.publish[rank] = ("sharded", mesh_shape, ranks, placements, local.shape, strides)
    return image


def factorize(rng, number):
    """`number` as a mesh shape of one to three dimensions, ones included."""
    shape = []
    for _ in range(2):
        divisors = [d for d in range(1, number + 1) if number % d == 0]
        shape.append(int(rng.choice(divisors)))
        number //= shape[-1]
    return [*shape, number][int(rng.integers(0, 2)) if shape[0] == 1 else 0 :]


def replicated(rng, shape, ranks):
    """Every rank holds the whole tensor, dense or transposed."""
    image = Image()
    for rank in ranks:
        strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
        if rng.integers(3) == 0:
            strides = [math.prod(shape[:d]) for d in range(len(shape))]
        image.held[rank] = np.arange(math.prod(shape))
        image.publish[rank] = ("whole", strides)
    return image


def table(rng, shape, ranks):
    """Boxes from cuts at random places, each box with owners at random."""
    numbers = np.arange(math.prod(shape)).reshape(shape)
    boxes_of = defaultdict(list)
    stack = [([0] * len(shape), list(shape))]
    while stack:
        begin, end = stack.pop()
        wide = [d for d in range(len(shape)) if end[d] - begin[d] > 1]
        if wide and rng.integers(3) > 0:
            dim = int(rng.choice(wide))
            at = int(rng.integers(begin[dim] + 1, end[dim]))
            stack.append((begin, [*end[:dim], at, *end[dim + 1 :]]))
            stack.append(([*begin[:dim], at, *begin[dim + 1 :]], end))
            continue
        owners = rng.choice(ranks, size=int(rng.integers(1, len(ranks) + 1)), replace=False)
        for rank in owners:
            boxes_of[int(rank)].append((begin, end))
    return from_boxes(rng, numbers, boxes_of)


def flat(rng, shape, ranks):
    """A 1-D cut of the row-major tensor, as ZeRO-1 makes it: each rank holds a run of elements."""
    size = math.prod(shape)
    bounds = [0, *sorted(int(b) for b in rng.integers(0, size + 1, len(ranks) - 1)), size]
    boxes_of = {}
    for i, rank in enumerate(ranks):
        at = [np.unravel_index(n, shape) for n in range(bounds[i], bounds[i + 1])]
        boxes_of[rank] = [([int(x) for x in p], [int(x) + 1 for x in p]) for p in at]
    return from_boxes(rng, np.arange(size).reshape(shape), boxes_of)


def from_boxes(rng, numbers, boxes_of):
    image = Image()
    for rank, boxes in boxes_of.items():
        fragments, elements, offset = [], [np.empty(0, dtype=int)], 0
        for begin, end in boxes:
            offset += int(rng.integers(0, 2))  # padding that nobody reads
            extents = [e - b for b, e in zip(begin, end, strict=True)]
            strides = [math.prod(extents[d + 1 :]) for d in range(len(extents))]
            fragments.append((begin, end, offset, strides))
            inside = tuple(slice(b, e) for b, e in zip(begin, end, strict=True))
            elements.append(numbers[inside].ravel())
            offset += math.prod(extents)
        if fragments:
            image.held[rank] = np.concatenate(elements)
            image.publish[rank] = ("fragments", fragments, offset)
    return image


def tied(rng, shape, ranks):
    """One tensor on two pipeline stages, each stage with a mesh of its own."""
    if len(ranks) < 2:
        return compact(rng, shape, ranks)
    at = int(rng.integers(1, len(ranks)))
    image = compact(rng, shape, ranks[:at])
    other = compact(rng, shape, ranks[at:])
    return Image(image.held | other.held, image.publish | other.publish)


KINDS = (compact, compact, compact, replicated, table, flat, tied)


# --- from images to native maps -------------------------------------------------------------------


def publish(images, tensors, num_ranks):
    """One StateTable per rank, merged as a session merges what all ranks publish."""
    tables = [native().StateTable() for _ in range(num_ranks)]
    meshes = [{} for _ in range(num_ranks)]
    for name, image in images.items():
        shape, dtype = tensors[name]
        head = (name, shape, dtype, ITEMSIZES[dtype])
        for rank, (kind, *how) in image.publish.items():
            if kind == "sharded":
                mesh_shape, ranks, placements, local_shape, strides = how
                key = (tuple(mesh_shape), tuple(ranks))
                if key not in meshes[rank]:
                    meshes[rank][key] = tables[rank].add_mesh(mesh_shape, ranks)
                tables[rank].add_sharded(
                    *head, meshes[rank][key], placements, 0, local_shape, strides
                )
            elif kind == "whole":
                tables[rank].add_whole(*head, 0, *how)
            else:
                fragments, num_elements = how
                tables[rank].add_fragments(*head, fragments, 0, num_elements * head[3])
    ranks_of = defaultdict(list)
    for rank, one in enumerate(tables):
        ranks_of[one.encode()].append(rank)
    return native().ShardMap.merge(list(ranks_of.items())), tables


@dataclass
class Case:
    """A pair of maps and what the oracle knows of them."""

    tensors: dict[str, tuple[list[int], str]]
    num_ranks: int
    source: dict[str, Image]
    target: dict[str, Image]

    def bitmap(self, images, name, rank):
        """Which elements of a tensor a rank holds, in the tensor's shape."""
        shape, _ = self.tensors[name]
        mask = np.zeros(math.prod(shape), dtype=bool)
        mask[images[name].held.get(rank, [])] = True
        return mask.reshape(shape)


def make_case(seed):
    rng = np.random.default_rng(seed)
    num_ranks = int(rng.integers(1, 8))
    tensors, source, target = {}, {}, {}
    for index in range(int(rng.integers(1, 4))):
        shape = [int(n) for n in rng.integers(1, 8, int(rng.integers(0, 4)))]
        name = f"t{index}|param"
        tensors[name] = (shape, str(rng.choice(list(ITEMSIZES))))
        for images in (source, target):
            num_present = int(rng.integers(1, num_ranks + 1))
            ranks = [int(r) for r in rng.permutation(num_ranks)[:num_present]]
            kind = KINDS[int(rng.integers(len(KINDS)))]
            images[name] = kind(rng, shape, ranks)
    return Case(tensors, num_ranks, source, target)


# --- the laws -------------------------------------------------------------------------------------


def paint(case, plans):
    """How often each element arrives: (name, dst) -> counts over the network, and kept locally."""
    arrived, kept = {}, {}
    for name, (shape, _) in case.tensors.items():
        for rank in range(case.num_ranks):
            arrived[name, rank] = np.zeros(shape, dtype=int)
            kept[name, rank] = np.zeros(shape, dtype=int)
    for rank, plan in enumerate(plans):
        for name, begin, end, src, dst in plan.moves():
            inside = tuple(slice(b, e) for b, e in zip(begin, end, strict=True))
            assert rank in (src, dst), "a plan lists a move of others"
            assert case.bitmap(case.source, name, src)[inside].all(), "src lacks what it sends"
            if src == dst:
                kept[name, dst][inside] += 1
            elif dst == rank:
                arrived[name, dst][inside] += 1
    return arrived, kept


def check_elements(case, plans):
    """Laws 2 and 3: what is needed arrives once, what is held is kept, nothing else moves."""
    arrived, kept = paint(case, plans)
    for rank, plan in enumerate(plans):
        received = kept_bytes = 0
        for name, (_, dtype) in case.tensors.items():
            own = case.bitmap(case.source, name, rank)
            need = case.bitmap(case.target, name, rank)
            assert (arrived[name, rank] == (need & ~own)).all(), f"arrivals of {name} on {rank}"
            assert (kept[name, rank] == (need & own)).all(), f"kept of {name} on {rank}"
            received += int((need & ~own).sum()) * ITEMSIZES[dtype]
            kept_bytes += int((need & own).sum()) * ITEMSIZES[dtype]
        assert plan.received_bytes == plan.lower_bound_bytes == received
        assert plan.kept_bytes == kept_bytes
        for name in plan.adoptable():
            own, need = (case.bitmap(i, name, rank) for i in (case.source, case.target))
            assert (own == need).all(), f"{name} is not the same on {rank} in both maps"


def check_pairs(plans):
    """Law 4: both ends of a pair list the same moves in the same order, under one hash."""
    sends, receives, hashes = defaultdict(list), defaultdict(list), {}
    for rank, plan in enumerate(plans):
        for move in plan.moves():
            src, dst = move[3:]
            if src != dst:
                (sends if src == rank else receives)[src, dst].append(move)
        hashes |= {("send", rank, peer): digest for peer, _, _, digest in plan.sends()}
        hashes |= {("receive", peer, rank): digest for peer, _, _, digest in plan.receives()}
    assert sends == receives
    for src, dst in sends:
        assert hashes["send", src, dst] == hashes["receive", src, dst]
    assert len(hashes) == 2 * len(sends)
    sent = sum(plan.sent_bytes for plan in plans)
    assert sent == sum(plan.received_bytes for plan in plans)


def check_maps(case, images, shard_map, tables):
    """The maps hold what the oracle cut, and each rank's live tensors prove it."""
    shard_map.prove_coverage()
    for name in case.tensors:
        for rank in range(case.num_ranks):
            mask = np.zeros(case.tensors[name][0], dtype=int)
            for begin, end in shard_map.fragments(name, rank):
                mask[tuple(slice(b, e) for b, e in zip(begin, end, strict=True))] += 1
            assert (mask == case.bitmap(images, name, rank)).all(), f"{name} on rank {rank}"
    for rank, one in enumerate(tables):
        shard_map.prove_live(rank, one)


def check_seed(seed):
    case = make_case(seed)
    source, source_tables = publish(case.source, case.tensors, case.num_ranks)
    target, target_tables = publish(case.target, case.tensors, case.num_ranks)
    check_maps(case, case.source, source, source_tables)
    check_maps(case, case.target, target, target_tables)
    plans = [native().make_plan(source, target, rank) for rank in range(case.num_ranks)]
    check_elements(case, plans)
    check_pairs(plans)
    assert native().check_plans(source, target, plans) == []


# Every switch stands on this: maps and plans agree, element by element, with arrays that were cut,
# for meshes, strided shards, uneven and empty shards, tables, flat runs, replicas and ties.
@pytest.mark.parametrize("chunk_index", range(NUM_CHUNKS))
def test_law2_law3_law4_hold_for_random_map_pairs(chunk_index: int):
    for seed in range(chunk_index * PAIRS_PER_CHUNK, (chunk_index + 1) * PAIRS_PER_CHUNK):
        try:
            check_seed(seed)
        except Exception as error:
            raise AssertionError(f"map pair of seed {seed}: {error}") from error


def drop_rank(image, rank):
    return Image(
        {r: e for r, e in image.held.items() if r != rank},
        {r: p for r, p in image.publish.items() if r != rank},
    )


# A cell that nobody holds must stop the ranks that need it before a byte moves, and only those.
def test_law2_missing_owner_is_refused_by_the_ranks_that_need_it():
    from dynatrain._errors import LayoutError

    num_refused = 0
    for seed in range(300):
        rng = np.random.default_rng(1_000_000 + seed)
        num_ranks, shape = int(rng.integers(2, 6)), [int(n) for n in rng.integers(1, 7, 2)]
        ranks, name = list(range(num_ranks)), "t|param"
        tensors = {name: (shape, "float32")}
        source = {name: drop_rank(table(rng, shape, ranks), int(rng.integers(num_ranks)))}
        case = Case(tensors, num_ranks, source, {name: compact(rng, shape, ranks)})
        if not source[name].held:
            continue
        maps = [publish(images, tensors, num_ranks)[0] for images in (case.source, case.target)]
        anywhere = sum(case.bitmap(source, name, rank) for rank in ranks) > 0
        for rank in ranks:
            needs_lost = (case.bitmap(case.target, name, rank) & ~anywhere).any()
            if needs_lost:
                num_refused += 1
                with pytest.raises(LayoutError, match=r"t\|param"):
                    native().make_plan(*maps, rank)
            else:
                native().make_plan(*maps, rank)
    assert num_refused > 100
