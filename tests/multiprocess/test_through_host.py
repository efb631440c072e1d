"""The demo's groups for ranks that share a GPU: on the CPU they must do what Gloo does."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional

from checkout import ROOT

EXAMPLES = str(ROOT / "examples")


def both_groups():
    """A group of the demo's kind, and Gloo's own."""
    sys.path.insert(0, EXAMPLES)
    try:
        through_host = importlib.import_module("gpt.through_host")
    finally:
        sys.path.remove(EXAMPLES)
    through_host.register()
    return dist.new_group(backend=through_host.BACKEND), dist.new_group(backend="gloo")


def numbers(rank, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(rank))


def all_gather(group, given, size):
    parts = [torch.empty_like(given) for _ in range(size)]
    dist.all_gather(parts, given, group=group)
    return torch.cat(parts)


def all_gather_into(group, given, size):
    whole = given.new_empty(given.shape[0] * size, *given.shape[1:])
    dist.all_gather_into_tensor(whole, given, group=group)
    return whole


def reduce_scatter(group, given, size, op=dist.ReduceOp.SUM):
    part = given.new_empty(given.shape[0] // size, *given.shape[1:])
    dist.reduce_scatter_tensor(part, given, op=op, group=group)
    return part


def mean_scatter(group, given, size):
    return reduce_scatter(group, given, size, dist.ReduceOp.AVG)


def all_reduce(group, given, size):
    total = given.t().clone().t()  # its rows are not contiguous
    dist.all_reduce(total, group=group)
    return total


def broadcast(group, given, size):
    value = given.clone()
    dist.broadcast(value, src=1, group=group)
    return value


def traced_all_reduce(group, given, size):
    return functional.all_reduce(given, "sum", group) + 0


def traced_all_gather(group, given, size):
    return functional.all_gather_tensor(given, 0, group) + 0


def traced_reduce_scatter(group, given, size):
    return functional.reduce_scatter_tensor(given, "sum", 0, group) + 0


def ring(group, given, size):
    """To the next and from the one before, at once, and larger than a socket's buffer."""
    rank = dist.get_rank(group)
    sent, arrived = given.repeat(1 << 14, 1), torch.zeros(given.shape[0] << 14, given.shape[1])
    exchange = [
        dist.P2POp(dist.isend, sent, (rank + 1) % size, group),
        dist.P2POp(dist.irecv, arrived, (rank - 1) % size, group),
    ]
    for work in dist.batch_isend_irecv(exchange):
        work.wait()
    return arrived


OPERATIONS = (
    all_gather,
    all_gather_into,
    reduce_scatter,
    mean_scatter,
    all_reduce,
    broadcast,
    traced_all_reduce,
    traced_all_gather,
    traced_reduce_scatter,
    ring,
)


def compare(rank, world_size):
    ours, gloo = both_groups()
    differing = []
    for operation in OPERATIONS:
        given = numbers(rank, 4, 6)
        results = [operation(group, given, world_size) for group in (ours, gloo)]
        if not torch.equal(*results) or not torch.equal(given, numbers(rank, 4, 6)):
            differing.append(operation.__name__)
    dist.barrier(group=ours)
    return differing


# FSDP2, tensor parallel and pipelining call these; on a GPU nothing else would show a wrong one.
@pytest.mark.parametrize("world_size", [2, 4])
def test_every_operation_gives_what_gloo_gives(pool, world_size):
    assert pool.run(compare, world_size=world_size) == [[]] * world_size


# A pipeline is what Gloo refuses the memory of a GPU for; the demo checks losses and bits itself.
@pytest.mark.long
def test_the_demo_trains_and_switches_over_host_groups(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = [f"{EXAMPLES}/train_gpt.py", "--demo", "--backend=through_host", f"--out={tmp_path}"]
    layouts = ["--layouts=tp=2;dp=2;pp=2", "--steps-per-layout=2"]
    done = subprocess.run(
        [*launch, *script, *layouts], check=False, timeout=240, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr
