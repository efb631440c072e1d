"""Elastic jobs whose network parts: nothing closes, packets vanish."""

from __future__ import annotations

import pytest

from elastic_jobs import TIMEOUT_S, Job, trains_in

HSDP = "dp=2,dp_replicate=2"
LAYOUTS = (HSDP, "dp=2", "dp=1")


@pytest.fixture
def parts(networks):
    return networks("office", "near", "far")


@pytest.fixture
def job(parts, tmp_path, request):
    seconds = getattr(request, "param", TIMEOUT_S)
    office = (parts.addresses["office"], parts.within("office"))
    made = Job(tmp_path, LAYOUTS, office=office, timeout_s=seconds)
    yield made
    for process in made.processes:
        process.kill()


def started(job, parts):
    """Two members on either side; those near by have the lower ranks, and so a copy each."""
    near = [job.member(parts.within("near")) for _ in range(2)]
    trains_in(near[0], "dp=2")
    far = [job.member(parts.within("far")) for _ in range(2)]
    trains_in(near[0], HSDP)
    return near, far


# Were the far side to train on, there would be two worlds.
def test_the_coordinators_side_goes_on_and_the_other_one_ends(parts, job):
    near, far = started(job, parts)
    parts.cut("far")
    trains_in(near[0], "dp=2")
    steps = [len(member.told("step")) for member in far]
    parts.mend("far")
    assert [member.end(60) for member in far] == [1, 1]  # out of their loop by an error
    job.hurry.touch()
    assert [member.end(120) for member in near] == [0, 0]

    assert [member.told("end")[0]["why"][0] for member in far] == ["lost"] * 2
    assert [member.told("end")[0]["why"][0] for member in near] == ["finished"] * 2
    assert [len(member.told("step")) for member in far] == steps


# Nobody tells it anything: its kernel gives the connections up, and it gives the coordinator up.
@pytest.mark.long
@pytest.mark.parametrize("job", [12], indirect=True)
def test_a_side_that_stays_cut_off_ends_by_itself(parts, job):
    near, far = started(job, parts)
    parts.cut("far")
    trains_in(near[0], "dp=2")
    steps = [len(member.told("step")) for member in far]
    assert [member.end(200) for member in far] == [1, 1]  # ten times the timeout, and some

    assert [member.told("end")[0]["why"][0] for member in far] == ["abandoned"] * 2
    assert [len(member.told("step")) for member in far] == steps
    assert all(member.told("cut") for member in far)


# It lost them all, one after the other, and told them so when the link was back: a job of any size
# ended for a cable of the coordinator's.
@pytest.mark.long
def test_a_coordinator_that_is_cut_off_changes_nothing_and_goes_on_when_it_is_back(parts, job):
    near, far = started(job, parts)
    parts.cut("office")
    steps = len(near[0].told("step"))
    near[0].wait_for(lambda: len(near[0].told("step")) > steps + 40)  # far longer than lost_after
    parts.mend("office")
    status = job.ask("status")
    job.ask("resize", "--layout", "dp=2")
    trains_in(near[0], "dp=2")
    job.hurry.touch()
    assert [member.end(120) for member in (*near, *far)] == [0] * 4

    assert (status["world"]["layout"], status["num_lost"]) == (HSDP, 0)
    assert [member.told("end")[0]["why"][0] for member in near] == ["finished"] * 2


# The coordinator hears them all and has nobody to blame: were it to lose members for it, one bad
# route would end healthy ones one after the other.
@pytest.mark.long
@pytest.mark.parametrize("job", [12], indirect=True)
def test_sides_that_reach_the_coordinator_alone_hold_and_go_on_when_they_meet_again(parts, job):
    near, far = started(job, parts)
    parts.part("near", "far")
    for member in (*near, *far):
        member.wait_for(lambda member=member: member.told("cut"))
    status = job.ask("status")
    steps = [len(member.told("step")) for member in (*near, *far)]
    parts.join("near", "far")
    near[0].wait_for(lambda: len(near[0].told("step")) > steps[0] + 5, 120)
    job.hurry.touch()
    assert [member.end(120) for member in (*near, *far)] == [0] * 4

    assert status["num_lost"] == 0
    assert [member.told("end")[0]["why"][0] for member in (*near, *far)] == ["finished"] * 4
