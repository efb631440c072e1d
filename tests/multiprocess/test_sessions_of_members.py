"""Sessions whose members come and go: any of a job, in any order, with or without rank 0."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

import dynatrain
import training_jobs as jobs
from dynatrain._torch_private.groups import GroupKind, take_as_default
from dynatrain.adapters.torch import TorchAdapter
from dynatrain.collective import Settled
from dynatrain.generation.generation import Generation
from dynatrain.generation.members import Members
from dynatrain.generation.options import Options
from dynatrain.generation.seats import Seats
from dynatrain.layout import Layout
from dynatrain.session import Session
from sessions import outcome
from worker_pool import WorkerPool

HOST = torch.device("cpu")
SEATS = GroupKind("gloo")
VERIFY = frozenset({"sums", "fingerprint"})


def generation_of(job, name, order):
    """The generation of these ranks of the job, for one that is among them."""
    store = job.store_of(name).clone()
    members = Members(name, order.index(job.rank), tuple(job.each[rank] for rank in order), store)
    options = Options(timedelta(seconds=30), 1 << 20, None, 1, "auto", VERIFY, 0)
    return Generation(members, options, HOST)


def session_over(generation, begin):
    """A session as ``init`` makes it, which begins with ``begin(session)``."""
    adapter = TorchAdapter(HOST)
    session = Session(Settled(jobs.build, generation, HOST, adapter, None, SEATS))
    with adapter.undisturbed():
        begin(session)
    session.place_kept()
    return session


def go_on(session, generation, layout):
    """Switches among other members; returns where this rank is then."""
    generation.connect("start")
    session._part.regroup(generation)
    report = session.switch(layout)
    return report.fingerprint_before == report.fingerprint_after


def place(session):
    """What torch says of this rank and its world, or nothing where it idles."""
    if not session.active:
        return dist.is_initialized()
    total = torch.ones(1)
    dist.all_reduce(total)
    return session.world.rank, dist.get_rank(), dist.get_world_size(), int(total)


def come_and_go(rank, world_size):
    job = Members.of_job()
    take_as_default(None)  # as in processes that nobody has started together
    losses, places = [], []
    first = Seats(Layout(dp=3), tuple(job.each[each].id for each in (3, 1, 2)))
    if rank != 0:
        generation = generation_of(job, "first", (3, 1, 2))
        session = session_over(generation, lambda s: s.start(Layout(dp=3), jobs.initialize, {}))
        losses.append(jobs.train_step(session.state, session.world, 0))
        places.append(place(session))
    everybody = generation_of(job, "second", (0, 3, 1, 2))
    if rank == 0:
        session = session_over(everybody, lambda s: s._part.stand_by(first, 0, {}))
        places.append(place(session))
    same = go_on(session, everybody, "dp=2,tp=2")
    losses.append(jobs.train_step(session.state, session.world, 1))
    places.append(place(session))
    same &= go_on(session, generation_of(job, "third", (2, 0, 1, 3)), "tp=2")
    places.append(place(session))
    if session.active:
        losses.append(jobs.train_step(session.state, session.world, 2))
        session._part.regroup(fourth := generation_of(job, "fourth", (2, 0)))
        fourth.connect("start")
        same &= session.switch("dp=2").epoch == 3
        losses.append(jobs.train_step(session.state, session.world, 3))
    session.close()
    return losses, places, same


def given_its_group_back(rank, world_size, work):
    """Runs ``work`` and gives the job its default group back: the pool's workers go on."""
    job = take_as_default(None)
    take_as_default(job)
    try:
        return work(rank, world_size)
    finally:
        take_as_default(job)


def train_alone(rank, world_size):
    session = dynatrain.init(jobs.build, "dp=1", initialize=jobs.initialize)
    return [jobs.train_step(session.state, session.world, step) for step in range(4)]


# The set of ranks is a value: were some of it taken from the job, a rank would have another's part.
def test_members_come_and_go_in_any_order_and_training_goes_on(pool: WorkerPool):
    ((*expected,),) = pool.run(train_alone, world_size=1)
    results = pool.run(given_its_group_back, come_and_go, timeout_s=120)
    losses, places, same = zip(*results, strict=True)

    assert all(same)
    trained = [[losses[rank][step] for rank, step in each] for each in _STEPS]
    assert [sum(each) / len(each) for each in trained] == pytest.approx(expected, rel=1e-5)
    # This rank in the world and in torch, and how many there are by its word and by counting.
    assert places[0] == [False, (0, 0, 4, 4), (1, 1, 2, 2)]
    assert places[1] == [(1, 1, 3, 3), (2, 2, 4, 4), False]
    assert places[2] == [(2, 2, 3, 3), (3, 3, 4, 4), (0, 0, 2, 2)]
    assert places[3] == [(0, 0, 3, 3), (1, 1, 4, 4), False]


#: Who trained each step, and as which of its own.
_STEPS = (
    ((1, 0), (2, 0), (3, 0)),
    ((0, 0), (1, 1), (2, 1), (3, 1)),
    ((0, 1), (2, 2)),
    ((0, 2), (2, 3)),
)


def stand_by_and_look(rank, world_size):
    """A spare joins while the layout stays, and a switch to another one is refused."""
    job = Members.of_job()
    take_as_default(None)
    seats = Seats(Layout(dp=2), tuple(job.each[each].id for each in (1, 2)))
    everybody = generation_of(job, "second", (1, 2, 0))
    if rank == 0:
        session = session_over(everybody, lambda s: s._part.stand_by(seats, 0, {}))
    else:
        generation = generation_of(job, "first", (1, 2))
        session = session_over(generation, lambda s: s.start(Layout(dp=2), jobs.initialize, {}))
        jobs.train_step(session.state, session.world, 0)
    everybody.connect("start")
    session._part.regroup(everybody)
    looked_at = session.check("dp=2")
    failed = outcome(lambda: session.switch("dp=3", names={"none": "other"}))
    if session.active:
        jobs.train_step(session.state, session.world, 1)
    where = place(session)
    session.switch("dp=3")
    if rank != 0:
        generation.close(with_worlds=False)
    return looked_at, failed[0], where, place(session)


# The seats of the present world are new to a spare: the world was made anew under all who train.
def test_a_spare_that_stands_by_does_not_end_the_present_world(pool: WorkerPool):
    results = pool.run(given_its_group_back, stand_by_and_look, world_size=3, timeout_s=120)
    looked_at, failed, before, after = zip(*results, strict=True)

    assert looked_at == (0, 0, 0)  # nothing would move
    assert failed == ("LayoutError",) * 3
    assert before == (False, (0, 0, 2, 2), (1, 1, 2, 2))
    assert after == ((2, 2, 3, 3), (0, 0, 3, 3), (1, 1, 3, 3))
