"""How elastic jobs end: with their model, the last checkpoint, and a status that is true."""

from __future__ import annotations

import pytest

import training_jobs as jobs
from elastic_jobs import WORKER, running, trains_in

STEPS = 24


@pytest.fixture
def job(tmp_path):
    with running(tmp_path, ("dp=2",)) as made:
        yield made


def started(job, number, **environment):
    folder = str(job.folder / "checkpoints")
    options = {"CHECKPOINT_DIR": folder, "CHECKPOINT_EVERY": "12", **environment}
    return [job.member(total=STEPS, **options) for _ in range(number)]


# The groups were aborted with the job's end, though the session stood: nobody could keep the model.
# What was due at the last step was not written either, so that nothing anywhere was the model.
def test_a_job_that_has_finished_leaves_its_model_and_its_last_checkpoint(job):
    members = started(job, 2, GATHERS="1")
    assert [member.end(120) for member in members] == [0, 0]

    (gathered,) = [said for member in members for said in member.told("gathered")]
    whole = jobs.Mlp().state_dict()
    assert gathered["shapes"] == {name: list(each.shape) for name, each in whole.items()}
    written = {path.name for path in (job.folder / "checkpoints").glob("step-*")}
    assert f"step-{STEPS}" in written
    noise = [line for each in members for line in each.lines if "no snapshots for now" in line]
    assert noise == []

    # Started again by a launcher, it has nothing to do: it trained a step more each time.
    job.coordinator.kill()
    (job.folder / "ledger").unlink()
    job.coordinator = job.coordinate(job.address)
    again = started(job, 2)
    assert [member.end(120) for member in again] == [0, 0]
    assert [member.told("end")[0] for member in again] == [
        {"kind": "end", "step": STEPS, "why": ["finished", ""]}
    ] * 2
    assert [said for member in again for said in member.told("step")] == []
    late = started(job, 1, GATHERS="1")[0]
    assert late.end(60) == 0
    assert late.told("end")[0]["why"] == ["over", "the job has finished"]


# All who were left said that the job had finished, and its last checkpoint was not there.
def test_a_death_while_the_last_checkpoint_is_written_is_one_as_any_other(tmp_path):
    with running(tmp_path, ("dp=2", "dp=1")) as job:
        stays, dies = started(job, 2, WRITES_S="1", CHECKPOINT_EVERY="6")
        stays.wait_for(lambda: [each for each in stays.told("step") if each["step"] == STEPS - 1])
        dies.child.kill()

        assert stays.end(120) == 0
        assert stays.told("end")[0] == {"kind": "end", "step": STEPS, "why": ["finished", ""]}
        assert [said["layout"] for said in stays.told("step")][-1] == "dp=1"
        written = {path.name for path in (job.folder / "checkpoints").glob("step-*")}
        assert f"step-{STEPS}" in written


# It ended with 0 and without a word: `until python ...` took it for done.
def test_a_process_with_other_arguments_ends_with_an_error_that_names_them(job):
    members = [job.member() for _ in range(2)]
    trains_in(members[0], "dp=2")
    other = job.member(SNAPSHOT_EVERY="7")

    # The coordinator of a shorter deadline lost members that said their word as often as they knew.
    late = job.started(WORKER, job.address, job.secret, STEPS, job.hurry, job.timeout_s + 1)
    assert late.end(60) == 1
    assert any("the coordinator has --timeout-s 30" in line for line in late.lines)
    assert other.end(60) == 1
    assert any("snapshot_every 7" in line for line in other.lines)
    job.coordinator.wait_for(lambda: any("is not taken" in line for line in job.coordinator.lines))
    job.hurry.touch()
    assert [member.end(120) for member in members] == [0, 0]
