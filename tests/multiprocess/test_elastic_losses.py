"""Elastic jobs that lose members while they train: the others go on, in the same processes."""

from __future__ import annotations

import os
import signal
import time

import pytest

import dynatrain
from elastic_jobs import TOTAL, running, trains_in, undisturbed

HSDP = "dp=2,dp_replicate=2"
LAYOUTS = (HSDP, "dp=3", "dp=2", "dp=1")


@pytest.fixture
def job(tmp_path):
    with running(tmp_path, LAYOUTS) as made:
        yield made


def losses_of(members):
    """The loss of each step in the last world that did it, None where a rank said none of it."""
    said = [each for member in members for each in member.told("step")]
    losses = []
    for step in range(max(each["step"] for each in said) + 1):
        of_step = [each for each in said if each["step"] == step]
        last = max((each["epoch"] for each in of_step), default=None)
        shares = [each for each in of_step if each["epoch"] == last]
        whole = shares and len(shares) == dynatrain.Layout.parse(shares[0]["layout"]).world_size
        losses.append(sum(each["loss"] for each in shares) / len(shares) if whole else None)
    return losses


def started_in(job, layout, number, **environment):
    members = [job.member(**environment) for _ in range(number)]
    for member in members:
        trains_in(member, layout)
    return members


def num_told(member, after_s=0):
    time.sleep(after_s)
    return len(member.told("step"))


def check_losses(members, num_cut):
    """Those of an undisturbed run; all ranks have told them, but of ``num_cut`` steps."""
    losses, expected = losses_of(members), undisturbed(TOTAL)
    assert sum(loss is None for loss in losses) <= num_cut
    for loss, of_step in zip(losses, expected, strict=True):
        assert loss is None or loss == pytest.approx(of_step, rel=1e-4)


def finish(job, members):
    """The members train to the end."""
    job.hurry.touch()
    assert [member.end(120) for member in members] == [0] * len(members)
    assert [member.told("end")[0]["why"][0] for member in members] == ["finished"] * len(members)


# Nothing is lost: each part of the state has another owner.
@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 3])
def test_members_go_on_when_one_is_killed(job, rank):
    members = started_in(job, HSDP, 4)
    at = [member.told("step")[-1]["place"][0] for member in members].index(rank)
    members[at].child.kill()
    living = [member for member in members if member is not members[at]]
    trains_in(living[0], "dp=3")
    members.append(job.member())
    living.append(members[-1])
    trains_in(living[0], HSDP)
    finish(job, living)

    check_losses(members, 1)  # some may have told of it before it was cut short


# It is there and says nothing: nothing closes, and the others hang in a collective with it, of a
# group that the script has made, which would wait half an hour.
@pytest.mark.long
def test_members_go_on_when_one_stops(job):
    members = started_in(job, HSDP, 4, OWN_GROUP="1")
    stopped, *living = members
    os.kill(stopped.child.pid, signal.SIGSTOP)
    trains_in(living[0], "dp=3")
    os.kill(stopped.child.pid, signal.SIGCONT)
    assert stopped.end(60) == 1
    finish(job, living)

    assert stopped.told("end")[0]["why"][0] == "lost"
    check_losses(members, 1)


# It hears that it is lost, and nothing ends what it hangs in: its process stayed for half an hour,
# and so long its launcher started no other one.
@pytest.mark.long
def test_a_lost_member_that_hangs_ends_its_process(tmp_path):
    with running(tmp_path, LAYOUTS, timeout_s=12) as job:
        members = started_in(job, HSDP, 4)
        by_rank = sorted(members, key=lambda member: member.told("step")[-1]["place"])
        *living, hangs, dies = by_rank  # the other replica has all of the state
        os.kill(hangs.child.pid, signal.SIGUSR2)
        hangs.wait_for(lambda: num_told(hangs) == num_told(hangs, after_s=1))
        dies.child.kill()
        trains_in(living[0], "dp=2")
        status = hangs.end(3 * job.timeout_s)
        finish(job, living)

        assert status == 1
        assert not hangs.told("end")  # no line of its script ran
        assert any("training thread has stood in one place" in line for line in hangs.lines)
        check_losses(members, 1)


# Its process lives on, say for an evaluation, and its heart beat: the others waited for it in a
# collective for ever.
@pytest.mark.long
def test_members_go_on_when_the_script_of_one_leaves_its_loop(job):
    members = [job.member() for _ in range(3)] + [job.member(BREAKS_AT="25")]
    *living, breaks = members
    breaks.wait_for(lambda: breaks.told("end"))
    trains_in(living[0], "dp=3")
    finish(job, living)

    assert breaks.end(60) == 0
    assert breaks.told("end")[0]["why"][0] in ("grace-over", "left")
    check_losses(members, 1)


# It has not voted, so that all know how it ended. It was taken for one that nobody knows of, and
# ended with its state.
@pytest.mark.long
def test_a_member_without_memory_before_its_vote_trains_on(job):
    first = job.member(RUNS_OUT="dp=2")
    trains_in(first, "dp=1")
    members = [first, job.member()]
    trains_in(first, "dp=2")
    finish(job, members)

    assert "given-up" in [said["what"] for said in first.told("event")]
    check_losses(members, 0)
