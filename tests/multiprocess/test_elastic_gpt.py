"""The demo's GPT, with its embedding tied to its head, loses a member in layouts of tp and pp."""

from __future__ import annotations

import os

import pytest
import torch.distributed as dist

import dynatrain
from checkout import ROOT
from elastic_jobs import HERE, running, shares_by_step, trains_in

EXAMPLES = str(ROOT / "examples")
STEPS = 60
WAYS = {
    "snapshot": lambda folder: ["--snapshot-every", "5"],
    "checkpoint": lambda folder: ["--checkpoint-every", "5", "--checkpoint-dir", folder],
}


def undisturbed(monkeypatch):
    """The loss of every step of the same job on one rank."""
    monkeypatch.syspath_prepend(EXAMPLES)
    from gpt.job import Job, JobConfig

    job = Job(JobConfig(total_steps=STEPS))
    options = {"initialize": job.initialize, "keep": {"data": job.loader}, "device": "cpu"}
    session = dynatrain.init(job.build, "dp=1", **options)
    losses = [job.train_step(session.state, session.world).loss for _ in session.steps(STEPS)]
    session.close()
    dist.destroy_process_group()
    return losses


def started(job, way):
    paths = os.pathsep.join([str(HERE.parent / "python"), EXAMPLES])
    options = ["--secret-file", job.secret, "--steps", STEPS, "--pace-s", "0.3"]
    options += WAYS[way](job.folder / "checkpoints")
    command = ["-m", "elastic.member", job.address, *options]
    return job.started(*command, PYTHONPATH=paths)


def events(member, what):
    return [each for each in member.told("event") if each["what"] == what]


# A tied weight has two owners of one value, a stage none of what lies in another one, and what tp
# has cut comes together anew: what is lost of all that comes back, and the steps are done again.
@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("layout", "after"), [("dp=2,pp=2", "pp=2"), ("tp=2,pp=2", "tp=2"), ("dp=2,tp=2", "dp=2")]
)
def test_what_is_lost_of_a_tied_model_comes_back(tmp_path, monkeypatch, way, layout, after):
    with running(tmp_path, (layout, after), 60) as job:  # as the example has it
        members = [started(job, way) for _ in range(4)]
        for member in members:
            trains_in(member, layout)
            member.wait_for(lambda member=member: len(events(member, way)) > 1, 120)
        (victim,) = [each for each in members if each.told("step")[-1]["rank"] == 1]
        victim.child.kill()
        living = [member for member in members if member is not victim]
        statuses = [member.end(180) for member in living]

    assert statuses == [0, 0, 0]
    assert [len(events(member, "went-back")) for member in living] == [1, 1, 1]
    shares = shares_by_step(members)
    last = [shares[step][max(shares[step])] for step in range(STEPS)]
    assert {each[0]["layout"] for each in last} == {layout, after}
    losses = [each[0]["loss"] for each in last]
    assert losses == pytest.approx(undisturbed(monkeypatch), rel=1e-3)
