"""Elastic jobs whose changes free the old state while the new one arrives."""

from __future__ import annotations

import pytest

from elastic_jobs import (
    TOTAL,
    check_losses,
    losses_of,
    running,
    trains_in,
    undisturbed,
    went_back,
)

WANTED = "dp=2,tp=2"
LAYOUTS = ("dp=4", WANTED, "dp=3", "dp=2", "dp=1")
_RARER = [pytest.param(how, marks=pytest.mark.long) for how in ("killed late", "stopped")]


@pytest.fixture
def job(tmp_path):
    with running(tmp_path, LAYOUTS) as made:
        yield made


def snapshots_of(member):
    return [each for each in member.told("event") if each["what"] == "snapshot"]


def started(job, number, how=None, layout="dp=4", **environment):
    """Members of a job that streams; the last one meets ``how`` on the way to what is wanted."""
    streams = {"MODE": "stream", "SNAPSHOT_EVERY": "5", **environment}
    disturbed = {} if how is None else {"IN_STREAM": f"{WANTED}:{how}"}
    members = [job.member(**streams) for _ in range(number - 1)]
    members.append(job.member(**streams, **disturbed))
    for member in members:
        trains_in(member, layout)
    if streams["SNAPSHOT_EVERY"]:
        for member in members:
            member.wait_for(lambda member=member: len(snapshots_of(member)) > 1)
    return members


def switched(members):
    """What each member has told of the switches that it took part in."""
    return [[(said["target"], said["mode"]) for said in each.told("switch")] for each in members]


def go_on_without(victim, living, job):
    """Asks for what is wanted, on the way to which one is lost; the others train to the end."""
    job.ask("resize", "--layout", WANTED)
    for member in living:
        trains_in(member, "dp=3")
    job.hurry.touch()
    victim.kill()
    assert [member.end(120) for member in living] == [0] * 3


# What is decided first must end as what is decided last: each step has the loss that it should.
@pytest.mark.long
def test_planned_changes_stream(job):
    members = started(job, 4)
    job.ask("resize", "--layout", WANTED)
    for member in members:
        trains_in(member, WANTED)
    job.ask("drain", 3)
    living = members
    living[0].wait_for(lambda: any(member.told("end") for member in members))
    job.hurry.touch()

    assert [member.end(120) for member in members] == [0] * 4
    for told in switched(members):
        assert told[-2:] == [(WANTED, "stream"), ("dp=3", "stream")]
    assert not went_back(members)
    check_losses(members)


# There is no way back then, and each of the others has a part of two states.
@pytest.mark.parametrize("how", ["killed", *_RARER])
def test_a_member_that_is_lost_on_the_way_takes_the_job_back_to_a_snapshot(job, how):
    *living, victim = started(job, 4, how)
    go_on_without(victim, living, job)

    assert len(went_back(living)) == 3
    assert not any(WANTED in {target for target, _ in told} for told in switched(living))
    check_losses([*living, victim])


# Nobody is lost here, and so nothing is: what a script raises behind the decision costs no step.
def test_what_all_members_have_left_is_put_together(job):
    members = started(job, 4, "refuses", SNAPSHOT_EVERY="")
    job.ask("resize", "--layout", WANTED)
    for member in members:
        trains_in(member, WANTED)
    job.ask("drain", 3)
    for member in members:
        member.wait_for(lambda member=member: ("dp=3", "stream") in switched([member])[0])
    job.hurry.touch()

    assert [member.end(120) for member in members] == [0] * 4
    assert not went_back(members)
    assert losses_of(members, TOTAL) == pytest.approx(undisturbed(TOTAL), rel=1e-4)


# The others have what it had, in parts of two layouts; it has not sent anything yet.
@pytest.mark.long
def test_replicas_of_a_lost_member_are_put_together(tmp_path):
    with running(tmp_path, ("dp=2,dp_replicate=2", WANTED, "dp=3", "dp=2")) as job:
        *living, victim = started(job, 4, "killed", "dp=2,dp_replicate=2", SNAPSHOT_EVERY="")
        go_on_without(victim, living, job)

        assert not went_back(living)
        assert losses_of([*living, victim], TOTAL) == pytest.approx(undisturbed(TOTAL), rel=1e-4)


# Without copies nothing is left, and that is said; no member trains on with a part.
@pytest.mark.long
def test_a_state_that_is_lost_on_the_way_and_has_no_copies_is_gone(job):
    *living, victim = started(job, 4, "killed", SNAPSHOT_EVERY="")
    job.ask("resize", "--layout", WANTED)
    for member in living:
        assert member.end(120) == 1
        assert member.told("end")[0]["why"][0] == "state-gone"
        assert any("no rank holds" in line for line in member.lines), "a region is named"
    victim.kill()
