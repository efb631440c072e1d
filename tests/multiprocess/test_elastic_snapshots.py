"""Elastic jobs that lose a part of the state with a member: it comes back from a snapshot."""

from __future__ import annotations

import os
import signal

import pytest

from elastic_jobs import (
    check_losses,
    check_repeated,
    running,
    trains_in,
    went_back,
)

LAYOUTS = ("dp=4", "dp=3", "dp=2", "dp=1")


@pytest.fixture
def job(tmp_path):
    with running(tmp_path, LAYOUTS) as made:
        yield made


def whole_snapshots(member):
    return [each for each in member.told("event") if each["what"] == "snapshot"]


def with_two_more(seen):
    """Who has told of two whole snapshots since."""
    return [member for member, num in seen.items() if len(whole_snapshots(member)) > num + 1]


def started(job, layout, number):
    members = [job.member(SNAPSHOT_EVERY="5") for _ in range(number)]
    for member in members:
        trains_in(member, layout)
        member.wait_for(lambda member=member: len(whole_snapshots(member)) > 1)
    return members


# Every shard has one owner, and one of them is killed. Its partner has a copy; the steps since then
# are done once more, on the same batches.
@pytest.mark.long
def test_a_lost_shard_comes_from_its_partner(job):
    members = started(job, "dp=4", 4)
    members[2].child.kill()
    living = [member for member in members if member is not members[2]]
    for member in living:
        trains_in(member, "dp=3")
    job.hurry.touch()

    assert [member.end(120) for member in living] == [0, 0, 0]
    assert len(went_back(living)) == 3
    assert len(set(went_back(living))) == 1, "all go back to one step"
    check_losses(members)


# In the layout in which the snapshot was made nothing may differ by a bit: a step that is repeated
# tells whether streams, moments, batches and the count of steps went back with the weights. Then
# another one is lost, in a world that began from a snapshot.
@pytest.mark.long
def test_steps_are_repeated_bit_for_bit_by_a_spare(job):
    members = [job.member(SNAPSHOT_EVERY="7") for _ in range(5)]
    alive = members
    for training in ("dp=4", "dp=3"):
        # In this world: until its copies are whole it has those of the world before alone.
        seen = {member: len(whole_snapshots(member)) for member in alive}
        members[-1].wait_for(lambda seen=seen: len(with_two_more(seen)) == 4)
        victim = with_two_more(seen)[0]
        victim.child.kill()
        victim.child.wait()
        alive = [member for member in members if member.child.poll() is None]
        for member in alive:
            trains_in(member, training)
    job.hurry.touch()
    assert [member.end(120) for member in alive] == [0, 0, 0]

    check_losses(members)
    check_repeated(members, "dp=4")


# The others connect for snapshots of their new world just then, and the dead one never comes: they
# waited for it, told nothing of the halted world, and were taken for lost with it.
@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_death_right_behind_a_switch_costs_one_member(tmp_path, how):
    wanted = "dp=2,dp_replicate=2"  # any three have the whole state
    with running(tmp_path, ("dp=4", wanted, "dp=3")) as job:
        members = started(job, "dp=4", 4)
        job.ask("resize", "--layout", wanted)
        victim, *living = members
        victim.wait_for(lambda: any(each["target"] == wanted for each in victim.told("switch")))
        os.kill(victim.child.pid, how)
        for member in living:
            trains_in(member, "dp=3")
        job.hurry.touch()

        assert [member.end(120) for member in living] == [0, 0, 0]
        check_losses(members)


# What the third one has of the last snapshot has no other owner when its keeper is killed, and the
# new world has no copies of its own yet. Whether it idles or is to leave, it brings them.
@pytest.mark.long
@pytest.mark.parametrize(
    ("question", "then"), [(("resize", "--layout", "dp=2"), "dp=2"), (("drain", "2"), "dp=1")]
)
def test_a_member_without_a_place_brings_its_copies(tmp_path, question, then):
    with running(tmp_path, ("dp=3", "dp=2", "dp=1")) as job:
        by_rank = {}
        for member in started(job, "dp=3", 3):
            by_rank[member.told("step")[-1]["place"][0]] = member
        job.ask(*question)
        victim = by_rank[0]  # the keeper of the third one
        victim.wait_for(lambda: any(each["target"] == "dp=2" for each in victim.told("switch")))
        victim.child.kill()
        living = [by_rank[1], by_rank[2]]
        trains_in(living[0], then)
        job.hurry.touch()

        assert [member.end(120) for member in living] == [0, 0]
        (switched,) = (each["step"] for each in victim.told("step")[-1:])
        before = [each["step"] for each in victim.told("step") if each["layout"] == "dp=3"]
        (went_to,) = {int(text.split()[2].rstrip(":")) for text in went_back(living)}
        assert went_to <= before[-1] + 1 <= switched + 1, "to a snapshot of the world before"
        check_losses([victim, *living])
