"""Elastic jobs of real processes: a coordinator, and members that nobody has started together."""

from __future__ import annotations

import json
import socket
from contextlib import suppress

import pytest

from dynatrain.elastic.coordinator import OPERATOR
from dynatrain.elastic.seal import Seal, greeting, new_nonce
from dynatrain.tools.cli import parser
from elastic_jobs import TOTAL, WORKER, losses_of, running, trains_in, undisturbed

LAYOUTS = ("dp=2,tp=2", "dp=2", "dp=1")


@pytest.fixture
def job(tmp_path):
    with running(tmp_path, LAYOUTS) as made:
        yield made


def samples_of(members):
    """The samples that each step read; ranks of one tensor parallel group read the same ones."""
    read = {}
    for member in members:
        for said in member.told("step"):
            rank, _, _ = said["place"]
            share = rank // 2 if "tp" in said["layout"] else rank
            read.setdefault(said["step"], {}).setdefault(share, set()).add(tuple(said["samples"]))
    return [
        [one for _, (own,) in sorted(read[step].items()) for one in own] for step in sorted(read)
    ]


# Nobody stops the job: members come, one is told to leave, rank 0 is drained, an idle one returns.
def test_members_join_leave_and_return_while_the_job_trains(job):
    first = [job.member(), job.member()]
    trains_in(first[0], "dp=2")
    later = [job.member(), job.member()]
    trains_in(first[0], "dp=2,tp=2")
    later[1].child.terminate()  # as a preemption does, with a grace
    trains_in(first[0], "dp=2")
    status = job.ask("drain", 0)
    steps = first[0].told("step")
    stayed = first[1]
    stayed.wait_for(lambda: stayed.told("switch")[2:])
    job.hurry.touch()
    assert [member.end(120) for member in (*first, *later)] == [0, 0, 0, 0]
    ends = [member.told("end")[0]["why"][0] for member in (*first, *later)]

    # An operator's host and world are those of the members' logs and reports.
    assert {each["host"] for each in status["members"]} == {socket.gethostname()}
    assert status["world"]["epoch"] == steps[-1]["epoch"]
    # Nobody stood still while a target was built.
    assert all(said["prepared"] for member in (*first, *later) for said in member.told("switch"))
    assert losses_of([*first, *later], TOTAL) == pytest.approx(undisturbed(TOTAL), rel=1e-4)
    # 53 samples in batches of 11, over two ranks and one: each once per epoch, none skipped.
    read = [one for step in samples_of([*first, *later]) for one in step]
    assert read == [place % 53 for place in range(11 * TOTAL)]
    assert sorted(ends) == ["finished", "finished", "released", "released"]
    assert later[1].told("end")[0]["why"][0] == "released"
    # Who leaves was ended while it told its numbers, and all took it for dead.
    assert not [line for member in (*first, *later) for line in member.lines if "alone" in line]


# Its loss stops changes, not training; what it had decided it finds again.
@pytest.mark.long
def test_a_coordinator_that_is_killed_and_started_again_goes_on(job):
    members = [job.member(), job.member()]
    trains_in(members[0], "dp=2")
    job.coordinator.kill()
    steps = len(members[0].told("step"))
    members[0].wait_for(lambda: len(members[0].told("step")) > steps + 10)
    job.coordinate(listen=job.address)
    members += [job.member(), job.member()]
    trains_in(members[0], "dp=2,tp=2")
    status = job.ask("status")
    job.hurry.touch()
    assert [member.end(120) for member in members] == [0, 0, 0, 0]

    assert status["world"]["layout"] == "dp=2,tp=2"  # as the second coordinator tells
    assert losses_of(members, TOTAL) == pytest.approx(undisturbed(TOTAL), rel=1e-4)


# The second in the list was tried for ever, and the job stood still, though the third would do.
@pytest.mark.long
def test_what_the_model_refuses_is_passed_over_when_a_member_dies(tmp_path):
    layouts = ["dp_replicate=3", "dp=2", "dp_replicate=2"]
    with running(tmp_path, layouts) as job:
        members = [job.member(REFUSES="dp=2", SNAPSHOT_EVERY="1") for _ in range(3)]
        for member in members:
            member.wait_for(lambda member=member: len(member.told("step")) > 5)
        members.pop().kill()
        for member in members:
            trains_in(member, "dp_replicate=2")
        job.hurry.touch()

        assert [member.end(120) for member in members] == [0, 0]
        assert all(said["layout"] != "dp=2" for said in members[0].told("step"))


# Not every rank has to ask, and whoever asks hears how it went. Their policy waits for both, where
# the coordinator would begin with one, and knows a layout that it does not.
def test_one_member_asks_for_a_layout_and_hears_of_it(job):
    members = [job.member(POLICY="tp=2"), job.member(POLICY="tp=2", REQUESTS="tp=7 dp=1")]
    asking = members[1]
    asking.wait_for(lambda: asking.told("request"))
    job.hurry.touch()
    assert [member.end(120) for member in members] == [0, 0]
    answers = {said["target"]: said["error"] for said in asking.told("request")}
    heard = [said["what"] for said in members[0].told("event")]

    assert [member.told("step")[0]["layout"] for member in members] == ["tp=2", "tp=2"]
    assert answers["dp=1"] is None
    assert "tp=7" in answers[None]
    assert heard.count("switched") >= 1
    assert heard[-1] == "ended"


def say_to(address, *lines):
    """What a coordinator answers to a greeting and lines that an intruder sends, to the end."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 5) as made:
        made.settimeout(10)
        found = []
        with suppress(ConnectionError), made.makefile("rb") as answers:
            made.sendall(b"".join(line + b"\n" for line in lines))
            with suppress(OSError):  # it is not connected where the coordinator was faster
                made.shutdown(socket.SHUT_WR)
            found.extend(answers)
        return found


# Whoever reaches the port could take a place in the job, or end it, by words that anybody can read.
def test_lines_without_the_jobs_code_are_refused_and_counted(job):
    nonce = new_nonce()
    question = OPERATOR + json.dumps({"ask": "drain", "rank": 0})
    other = Seal(b"another secret" * 2, ("0" * 32, nonce), is_coordinator=False).close(question)
    replayed = Seal(job.secret.read_bytes().strip(), ("0" * 32, nonce), is_coordinator=False)
    lines = [
        (b"GET / HTTP/1.1",),
        (greeting(nonce), question.encode()),
        (greeting(nonce), other.rstrip()),
        (greeting(nonce), replayed.close(question).rstrip()),  # of another connection
        (greeting(nonce), b"\xff" * 500_000),
    ]
    answers = [say_to(job.address, *each) for each in lines]

    assert all(len(each) <= 1 for each in answers)  # the greeting of the coordinator alone
    assert job.ask("status")["num_refused"] == len(lines)


# The guide's script, as a new user starts it.
def test_the_guides_script_trains_under_its_coordinator(tmp_path):
    guide = WORKER.parents[1] / "examples" / "guides" / "elastic.py"
    with running(tmp_path, ["dp=2"], 60) as job:  # one alone would not wait for the other
        settings = ["--secret-file", job.secret, "--steps", 8, "--pause-s", 0]
        members = [job.started(guide, job.address, *settings) for _ in range(2)]
        assert [member.end(60) for member in members] == [0, 0]

    for member in members:
        steps = [line for line in member.lines if line.startswith("step")]
        assert [line.split(":")[0].split(" ")[1] for line in steps][-1] == "7"
        assert member.lines[-1] == "ended: finished"


# They need a coordinator that runs, so that no test of the guides types them.
def test_commands_in_the_guide_are_commands():
    page = WORKER.parents[1] / "docs" / "guide" / "elastic.md"
    lines = [line.split("#")[0] for line in page.read_text().splitlines()]
    commands = [line.split()[1:] for line in lines if line.startswith("dynatrain ")]
    named = {parser().parse_args(command).command for command in commands}

    assert named == {"coordinator", "status", "resize", "drain"}


# Meshes of which a rank's is a part ask torch for the rank, before that world is torch's default.
@pytest.mark.long
def test_a_job_begins_in_a_layout_of_several_axes(tmp_path):
    guide = WORKER.parents[1] / "examples" / "guides" / "elastic.py"
    with running(tmp_path, ["dp=2,tp=2"], 60) as job:
        settings = ["--secret-file", job.secret, "--steps", 4, "--pause-s", 0]
        members = [job.started(guide, job.address, *settings) for _ in range(4)]

        assert [member.end(60) for member in members] == [0] * 4
        assert all(member.lines[-1] == "ended: finished" for member in members)


# The tensors of one member are others at each step, so that nothing fits that is prepared while it
# trains: the change was tried for ever. In the stop it comes, and who listens hears why it is slow.
@pytest.mark.long
def test_a_change_that_cannot_be_prepared_ahead_is_prepared_in_the_stop(job):
    members = [job.member(), job.member(NEVER_AHEAD="1")]
    for member in members:
        trains_in(member, "dp=2")
    stays = next(member for member in members if member.told("step")[-1]["place"][0] == 0)
    job.ask("resize", "--layout", "dp=1")
    trains_in(stays, "dp=1")
    job.hurry.touch()

    assert [member.end(120) for member in members] == [0, 0]
    assert stays.told("switch")[-1]["prepared"] is False  # one that came first was in dp=1 before
    words = [each["text"] for each in stays.told("event") if each["what"] == "preparing"]
    assert "dp=2 -> dp=1, in the stop" in words[-1]
    losses_of(members, TOTAL)
