"""Elastic jobs that lose a part of the state with a member: it comes back from a checkpoint."""

from __future__ import annotations

import pytest

from elastic_jobs import check_losses, check_repeated, running, trains_in, went_back

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
@pytest.mark.timeout(240)
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
