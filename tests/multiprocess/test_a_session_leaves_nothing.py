"""What a session has opened ends with it: groups, their threads and their sockets."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch.distributed as dist
from torch.distributed import distributed_c10d

import dynatrain
import training_jobs as jobs
from dynatrain import LayoutError, api
from dynatrain.generation import worlds
from process_memory import resident_bytes

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counted in /proc")


def opened():
    """Threads of Gloo, and sockets, of this process."""
    threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    links = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(path))
        except FileNotFoundError:  # that of the listing itself
            continue
    return (
        sum("gloo" in name for name in threads),
        sum(link.startswith("socket:") for link in links),
        len(distributed_c10d._world.pg_names),
    )


def start_and_close(rank, world_size):
    num_groups, counts = opened()[-1], []
    for _ in range(3):
        session = dynatrain.init(jobs.build, "dp=2", initialize=jobs.initialize, timeout_s=30)
        session.switch("tp=2")
        session.world.group("tp")
        during = opened()
        dist.barrier()  # a peer that closes ends this rank's sockets to it
        session.close()
        del session
        api._let_go_of_closed()  # as the next init does
        counts.append((during, opened()))
    return num_groups, counts


# Each session and each connection left two groups, 7 to 14 descriptors and 6 threads in torch's
# registry: after 85 of them a process has no descriptor left.
def test_a_closed_session_leaves_no_thread_no_socket_and_no_group(pool):
    for num_groups, counts in pool.run(start_and_close, world_size=2, timeout_s=90):
        ((_, first), *_) = counts
        assert first[-1] == num_groups
        for during, after in counts:
            assert min(more - fewer for more, fewer in zip(during, after, strict=True)) > 0
            assert all(now <= then for now, then in zip(after, first, strict=True))


def connect_again(rank, world_size):
    session = dynatrain.init(jobs.build, "dp=2", initialize=jobs.initialize, timeout_s=30)
    counts = []
    for target in ("tp=2", "dp=2", "tp=2", "dp=2"):
        session.switch(target)
        counts.append(opened())
        session._part.engine.control.lost = rank == 0  # as after an exchange that has failed there
    dist.barrier()  # a peer that closes ends this rank's sockets to it
    session.close()
    return counts


def test_groups_that_were_lost_end_when_others_are_made(pool):
    for counts in pool.run(connect_again, world_size=2, timeout_s=90):
        assert counts == counts[:1] * len(counts)


LAYOUTS = ("tp=2", "pp=2", "dp=2")
#: Of one switch: what Python and the C library keep comes and goes.
MOST_GROWTH_BYTES = 64 << 10


def switch_many_times(rank, world_size, num_switches):
    session = dynatrain.init(
        jobs.build, "dp=2", initialize=jobs.initialize, timeout_s=30, verify=("fingerprint",)
    )
    store = distributed_c10d._get_default_store()
    counts, fingerprints = [], set()
    for step in session.steps(num_switches):
        jobs.train_step(session.state, session.world, step)
        target = LAYOUTS[step % len(LAYOUTS)]
        if step % 2:
            session.prepare(target)
        report = session.switch(target)
        fingerprints.add(report.fingerprint_before == report.fingerprint_after)
        if step % 50 == 49:
            gc.collect()
            descriptors = len(list(Path("/proc/self/fd").iterdir()))
            counts.append((resident_bytes(), descriptors, store.num_keys(), *opened()))
    session.close()
    return counts, fingerprints


# A job of a month switches with every preemption of its hosts.
@pytest.mark.long
def test_two_hundred_switches_leave_nothing(pool):
    pool.close()  # what an earlier test has left in the heap comes and goes
    for counts, same in pool.run(switch_many_times, 250, world_size=2, timeout_s=600):
        (resident, descriptors, num_keys, *rest), *later = counts
        assert same == {True}
        for now_resident, now_descriptors, now_keys, *now in later:
            assert all(more <= before for more, before in zip(now, rest, strict=True))
            assert now_descriptors <= descriptors
            assert now_keys <= num_keys + 40  # of the meetings that are not forgotten yet
            assert now_resident - resident < 200 * MOST_GROWTH_BYTES


def visit_many_layouts(rank, world_size):
    worlds._MOST_UNUSED = 1
    session = dynatrain.init(jobs.build, "dp=2", initialize=jobs.initialize, timeout_s=30)
    session.prepare("tp=2")
    for other in ("pp=2", "dp=1,tp=2", "dp_replicate=2", "tp=1"):
        session.check(other)
    kept, opened_then = session._part.worlds.kept, opened()
    prepared = session.switch("tp=2").prepared
    jobs.train_step(session.state, session.world, 0)
    session.switch("pp=2")  # its groups are made anew
    jobs.train_step(session.state, session.world, 1)
    return kept, opened_then, prepared, opened()


# Each layout that was ever looked at kept threads and sockets; what is in use must not go.
def test_layouts_that_are_not_in_use_are_let_go_of(pool):
    for kept, then, prepared, later in pool.run(visit_many_layouts, world_size=2, timeout_s=90):
        assert tuple(seats.rpartition(" ")[0] for seats in kept) == (
            "dp=2",
            "tp=2",
            "dp_replicate=2",
            "dp=1",
        )
        assert prepared
        assert later[-1] <= then[-1] + 2
    pool.close()  # the limit belongs to these processes


def call_when_closed(rank, world_size, closed):
    session = dynatrain.init(jobs.build, "dp=2", initialize=jobs.initialize, timeout_s=30)
    if rank in closed:
        session.close()
        session.close()
    texts = []
    for call in (session.switch, session.prepare, session.check):
        with pytest.raises(LayoutError, match="it was closed") as refused:
            call("tp=2")
        texts.append(str(refused.value))
    for ask in (session.fingerprint, session.verify_replicas):
        with pytest.raises(LayoutError, match="it was closed"):
            ask()
    return texts


# A switch behind it connected anew; where one rank had closed, the others were told of a lost peer.
@pytest.mark.parametrize("closed", [[0], [0, 1]])
def test_calls_of_a_closed_session_are_refused_on_all_ranks(pool, closed):
    for texts in pool.run(call_when_closed, closed, world_size=2, timeout_s=90):
        assert all("dynatrain.init starts another session" in text for text in texts)
