"""Ranks on two hosts, which are network namespaces of this machine."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import training_jobs as jobs
from multiprocess.test_shared_memory import session_over
from networks import enter

LAYOUTS = ("dp=4", "dp=2,tp=2", "tp=4", "dp=4")
NUM_RANKS = 4


def host_of(rank):
    return rank * 2 // NUM_RANKS


def train(rank, places, address, transport, folder):
    enter(places[host_of(rank)])
    store = f"tcp://{address}:29500"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=NUM_RANKS)
    session = session_over(transport)
    losses, reports = [], []
    for step in session.steps(2 * len(LAYOUTS)):
        losses.append(jobs.train_step(session.state, session.world, step))
        if step % 2 and step // 2 + 1 < len(LAYOUTS):
            report = session.switch(LAYOUTS[step // 2 + 1])
            reports.append((report.bytes_in_place, report.bytes_moved, report.traffic))
    whole = jobs.whole_state(session.state)
    session.close()
    dist.destroy_process_group()
    torch.save((losses, whole, reports), folder / f"{transport}-{rank}")


@pytest.fixture
def hosts(networks):
    return networks("one", "two")


def trained(hosts, transport, folder):
    """What every rank of a job on both hosts ends with."""
    places = [hosts.place("one"), hosts.place("two")]
    arguments = (places, hosts.addresses["one"], transport, folder)
    mp.spawn(train, arguments, nprocs=NUM_RANKS)
    return [torch.load(folder / f"{transport}-{rank}") for rank in range(NUM_RANKS)]


# All went by messages where one rank of the machine was in another network, as containers are.
def test_a_host_reads_in_place_and_sends_to_the_other(hosts, tmp_path):
    divided = trained(hosts, "shared_memory", tmp_path)
    by_messages = trained(hosts, "c10d", tmp_path)

    for (losses, whole, _), (expected, state, _) in zip(divided, by_messages, strict=True):
        assert losses == expected
        assert jobs.differences(whole, state) == []
    for in_place, moved, traffic in divided[0][2][1:]:  # the first finds slots that a script made
        within = sum(size for src, dst, size in traffic if host_of(src) == host_of(dst))
        assert 0 < in_place == within < moved
    assert [in_place for in_place, *_ in by_messages[0][2]] == [0, 0, 0]
