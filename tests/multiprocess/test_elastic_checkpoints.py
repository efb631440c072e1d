"""Elastic jobs that lose a part of the state with a member: it comes back from a checkpoint."""

from __future__ import annotations

import pytest

from elastic_jobs import (
    TOTAL,
    check_losses,
    check_repeated,
    running,
    shares_by_step,
    trains_in,
    undisturbed,
    went_back,
)

LAYOUTS = ("dp=4", "dp=3", "dp=2", "dp=1")


@pytest.fixture
def job(tmp_path):
    with running(tmp_path, LAYOUTS) as made:
        yield made


def checkpoints(member):
    return [each for each in member.told("event") if each["what"] == "checkpoint"]


def started(job, number, **environment):
    folder = str(job.folder / "checkpoints")
    members = [
        job.member(CHECKPOINT_DIR=folder, CHECKPOINT_EVERY="6", **environment)
        for _ in range(number)
    ]
    return members


def lose(members, victim):
    victim.child.kill()
    victim.child.wait()
    return [member for member in members if member.child.poll() is None]


def check_went_to_disk(members, alive):
    """All went back, each time to a step of which there was a checkpoint."""
    written = {each["text"].split(":")[0] for member in members for each in checkpoints(member)}
    back = [text.split(":")[0].removeprefix("to step ") for text in went_back(alive)]
    assert len(back) >= len(alive)
    assert {f"after {step} steps" for step in back} <= written


# Nobody keeps a copy of another one. What is lost with a member is on disk, and all go back to that
# step: first with a spare in the place of the lost one, where nothing may differ by a bit; then in
# another layout.
@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_lost_shard_comes_from_the_checkpoint(job):
    members = alive = started(job, 5)
    for training in ("dp=4", "dp=3"):
        seen = {member: len(checkpoints(member)) for member in alive}

        def wrote(seen=seen):
            return [each for each, num in seen.items() if len(checkpoints(each)) > num + 1]

        alive[-1].wait_for(lambda wrote=wrote: len(wrote()) == 4, 120)
        alive = lose(alive, wrote()[0])
        for member in alive:
            trains_in(member, training)
    job.hurry.touch()
    assert [member.end(120) for member in alive] == [0, 0, 0]
    check_went_to_disk(members, alive)
    check_losses(members)
    check_repeated(members, "dp=4")


# Both members that have a part of the state are lost at once, one of them with the other's copies.
# The copies of those who live stay in use; what only the lost had is read.
@pytest.mark.long
def test_what_no_copy_has_comes_from_the_checkpoint(job):
    members = started(job, 4, SNAPSHOT_EVERY="6")
    members[0].wait_for(lambda: len(checkpoints(members[0])) > 1, 120)
    place = {member.told("step")[-1]["place"][0]: member for member in members}
    place[0].child.kill()
    place[0].child.wait()
    alive = lose(members, place[2])
    for member in alive:
        trains_in(member, "dp=2")
    job.hurry.touch()
    assert [member.end(120) for member in alive] == [0, 0]
    check_went_to_disk(members, alive)
    check_losses(members)


def resumed(members):
    """The steps at which members went on from a checkpoint, in their own words."""
    events = [each for member in members for each in member.told("event")]
    return [each["text"] for each in events if each["what"] == "resumed"]


def kill_all(members):
    for member in members:
        member.child.kill()
    for member in members:
        member.child.wait()


# A power cut: nobody who is left has anything. First the coordinator knows of the job, then not
# even that. Nothing differs by a bit, random streams included; the layout may be another.
@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_job_whose_processes_have_all_died_goes_on_from_its_checkpoint(tmp_path):
    with running(tmp_path, ("dp=4",)) as job:
        lives = []
        for _ in range(2):
            lives.append(started(job, 4, SEEDS="1"))
            first = lives[-1][0]
            first.wait_for(lambda first=first: len(checkpoints(first)) > 1, 120)
            kill_all(lives[-1])
        check_resumed(lives[1])
        check_repeated([*lives[0], *lives[1]], "dp=4", ("loss", "draw"))

        job.coordinator.kill()
        (job.folder / "ledger").unlink()
        job.layouts = ("dp=2",)
        job.coordinator = job.coordinate(job.address)
        members = started(job, 2)
        trains_in(members[0], "dp=2")
        job.hurry.touch()
        assert [member.end(120) for member in members] == [0, 0]
    begun = check_resumed(members)
    expected = undisturbed(TOTAL)
    shares = shares_by_step(members)
    assert sorted(shares) == [*range(begun, TOTAL)]
    for step, epochs in shares.items():
        (each,) = epochs.values()
        assert sum(said["loss"] for said in each) / 2 == pytest.approx(expected[step], rel=1e-4)


def check_resumed(members):
    """All begin at the step of a checkpoint, which is returned, and say so."""
    begun = {member.told("step")[0]["step"] for member in members}
    assert set(resumed(members)) == {f"at step {step}" for step in begun}
    assert len(begun) == 1
    assert min(begun) > 0
    return min(begun)
