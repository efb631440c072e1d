"""Ranks that take the places of which they have most: the same training, and less that moves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

import dynatrain
import training_jobs as jobs

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Of all three kinds, and back: what is relabelled once is the source of the next one.
LAYOUTS = ("dp=4", "dp=2,tp=2", "tp=2,pp=2", "dp_replicate=2,dp=2", "dp=2,pp=2", "dp=4")


def train_through(rank, world_size, relabel):
    """By place: losses and gradient norms, and the whole parameters at the end; reports."""
    sys.path.insert(0, str(EXAMPLES))
    from gpt.job import Job, JobConfig

    job = Job(JobConfig(total_steps=100))
    session = dynatrain.init(
        job.build,
        LAYOUTS[0],
        initialize=job.initialize,
        keep={"data": job.loader},
        timeout_s=30,
        verify=("sums", "fingerprint", "replicas"),
        relabel=relabel,
    )
    results, places, reports = [], [], []
    for step in session.steps(2 * len(LAYOUTS)):
        results.append(tuple(job.train_step(session.state, session.world)))
        if step % 2 == 0:
            places.append(session.world.rank)
            assert dist.get_rank() == rank
            check_meshes(session.world)
        elif step // 2 + 1 < len(LAYOUTS):
            reports.append(session.switch(LAYOUTS[step // 2 + 1]).to_json())
    whole = {
        name: (each.full_tensor() if isinstance(each, DTensor) else each).detach().clone()
        for name, each in session.state.model.named_parameters()
    }
    session.close()
    return results, places, reports, whole


def check_meshes(world):
    """A rank's coordinate is that of its place, in all meshes and in the groups of these."""
    names = world.mesh.mesh_dim_names
    for mesh in (world.mesh, world.mesh_over(*reversed(names))):
        own = [world.coordinate(name) for name in mesh.mesh_dim_names]
        assert [*mesh.get_coordinate()] == own
        for name, coordinate in zip(mesh.mesh_dim_names, own, strict=True):
            group = mesh.get_group(name)
            assert dist.get_rank(group) == coordinate
            assert dist.get_global_rank(group, coordinate) == dist.get_rank()
    assert dist.get_rank(world.group(*world.layout.order)) == world.rank
    if {"dp_replicate", "dp_shard"} <= set(names):
        assert world.mesh["dp"].get_local_rank() == world.coordinate("dp")


# Law 1: each place must train what it would have trained with another rank in it, bit for bit.
def test_places_train_the_same_and_less_moves(pool):
    natural = pool.run(train_through, False)
    relabelled = pool.run(train_through, True)

    assert [places for _, places, _, _ in natural] == [[rank] * len(LAYOUTS) for rank in range(4)]
    for phase in range(len(LAYOUTS)):
        taken = [places[phase] for _, places, _, _ in relabelled]
        assert sorted(taken) == [0, 1, 2, 3]
        for rank, place in enumerate(taken):
            steps = slice(2 * phase, 2 * phase + 2)
            assert relabelled[rank][0][steps] == natural[place][0][steps]
    last = [places[-1] for _, places, _, _ in relabelled]
    for rank, place in enumerate(last):
        for name, tensor in relabelled[rank][3].items():
            assert torch.equal(tensor, natural[place][3][name])
    assert any(places != [rank] * len(LAYOUTS) for rank, (_, places, *_) in enumerate(relabelled))
    first, as_natural = relabelled[0][2][0], natural[0][2][0]
    assert first["relabel_saved_bytes"] > as_natural["bytes_moved"] / 4
    assert first["bytes_moved"] == as_natural["bytes_moved"] - first["relabel_saved_bytes"]
    assert {report["relabel_saved_bytes"] for report in natural[0][2]} == {0}
    moved = [sum(r["bytes_moved"] for r in ranks[0][2]) for ranks in (relabelled, natural)]
    assert moved[0] < moved[1]


def switch_and_back(rank, world_size, settings):
    """Twice the same pair of worlds, prepared and not, then to fewer ranks; states and reports."""
    session = dynatrain.init(
        jobs.build, "dp=4", initialize=jobs.initialize, timeout_s=20, relabel=True, **settings
    )
    states, reports = [], []
    for step, target in enumerate(("dp=2,tp=2", "dp=4", "dp=2,tp=2", "dp=2", "dp=4")):
        if session.active:
            jobs.train_step(session.state, session.world, step)
        before = jobs.whole_state(session.state) if session.active else None
        if step % 2 == 0:
            session.prepare(target)
        reports.append(session.switch(target).to_json())
        after = jobs.whole_state(session.state) if session.active else None
        states.append((before, after))
    place = session.world.rank
    session.close()
    return states, reports, place


# What was found for two worlds is found once, and holds for all later switches between them.
@pytest.mark.parametrize("settings", [{}, {"mode": "stream"}, {"transport": "shared_memory"}])
def test_every_bit_stays_on_the_way_there_and_back(pool, settings):
    for states, reports, _ in pool.run(switch_and_back, settings):
        for before, after in states:
            assert before is None or after is None or jobs.differences(before, after) == []
        first, back, again = reports[:3]
        assert first["relabel_saved_bytes"] > 0
        assert again["relabel_saved_bytes"] == first["relabel_saved_bytes"]
        assert again["bytes_moved"] == first["bytes_moved"] == first["lower_bound_bytes"]
        assert back["bytes_moved"] == back["lower_bound_bytes"]


def tour(rank, world_size, forgetful):
    """Many worlds, more than are kept, by several ways to each; one rank may lose what it knows."""
    session = dynatrain.init(
        jobs.build,
        "dp=4",
        initialize=jobs.initialize,
        timeout_s=20,
        verify=("sums", "fingerprint"),
        relabel=True,
    )
    states, moved = [], []
    targets = ["dp=2,tp=2", "tp=4", "dp_replicate=2,dp=2", "dp=2,tp=2", "dp=3", "tp=2", "dp=4"]
    for number, target in enumerate(3 * targets):
        before = jobs.whole_state(session.state) if session.active else None
        if forgetful and rank == 2 and number % 4 == 3:
            session._part.targets._relabellings.clear()
        moved.append(session.switch(target).bytes_moved)
        after = jobs.whole_state(session.state) if session.active else None
        states.append((before, after))
    session.close()
    return states, moved


# A rank that left between two lines knows of no places: all choose anew, or they wait for each
# other in other worlds. And a world that was let go of meanwhile is made again.
@pytest.mark.parametrize("forgetful", [False, True])
def test_ranks_agree_on_places_whatever_each_remembers(pool, forgetful):
    results = pool.run(tour, forgetful)

    for states, moved in results:
        assert moved == results[0][1]
        for before, after in states:
            assert before is None or after is None or jobs.differences(before, after) == []


def hook(layout):
    return None


@pytest.mark.parametrize(
    ("asked", "named"), [({"relabel": 1}, "True or False"), ({"groups": hook}, "groups=")]
)
def test_what_cannot_be_relabelled_is_refused(asked, named):
    with pytest.raises(dynatrain.LayoutError, match=named):
        dynatrain.init(jobs.build, "dp=1", **{"relabel": True, **asked})
