"""Members that launchers start: whose death is no other's business, and who leaves with grace."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from elastic_jobs import WORKER, running, trains_in

HSDP = "dp=2,dp_replicate=2"
LAYOUTS = (HSDP, "dp=3", "dp=2", "dp=1")
GUIDE = Path(__file__).resolve().parents[2] / "examples" / "guides" / "elastic.py"
AGENT = ("-m", "torch.distributed.run", "--standalone", "--max-restarts=0")

pytestmark = pytest.mark.long


@pytest.fixture
def job(tmp_path):
    with running(tmp_path, LAYOUTS, 60) as made:  # as the guide's script has it
        yield made
        for process in made.processes:
            process.child.terminate()  # an agent ends its workers, too
            process.child.wait(60)


def agent(job, number=1, **environment):
    """An agent of torchrun with so many workers."""
    worker = (WORKER, job.address, job.secret, 100_000, job.hurry, job.timeout_s)
    return job.started(*AGENT, f"--nproc-per-node={number}", *worker, **environment)


def workers_of(process):
    """Processes that an agent has started."""
    children = Path(f"/proc/{process.child.pid}/task/{process.child.pid}/children").read_text()
    found = []
    for child in map(int, children.split()):
        if WORKER.name in Path(f"/proc/{child}/cmdline").read_text():
            found.append(child)
    return found


# The page says so of agents of one worker; were they one failure domain, all would end.
def test_workers_with_an_agent_each_outlive_one_that_is_killed(job):
    agents = [agent(job) for _ in range(4)]
    for each in agents:
        trains_in(each, HSDP)
    (worker,) = workers_of(agents[3])
    os.kill(worker, signal.SIGKILL)
    trains_in(agents[0], "dp=3")

    assert agents[3].end(60) != 0
    assert [each.child.poll() for each in agents[:3]] == [None] * 3


# An agent that is told to end sends it on: its worker leaves with grace, and nobody is cut short.
def test_an_agent_that_is_told_to_end_has_its_worker_leave(job):
    agents = [agent(job) for _ in range(3)]
    for each in agents:
        trains_in(each, "dp=3")
    agents[2].child.terminate()
    trains_in(agents[0], "dp=2")
    agents[2].end(60)

    assert agents[2].told("end")[0]["why"][0] == "released"
    assert not agents[0].told("cut")


# A worker may leave an agent of several: it waits for the rest.
def test_a_planned_leave_from_an_agent_of_two_keeps_the_other(job):
    both = agent(job, 2)
    trains_in(both, "dp=2")
    job.ask("drain", 0)
    trains_in(both, "dp=1")
    steps = len(both.told("step"))
    both.wait_for(lambda: len(both.told("step")) > steps + 10)

    assert len(workers_of(both)) == 1
    assert [said["why"][0] for said in both.told("end")] == ["released"]


# Environments that say otherwise are those of a job before its last change.
def test_what_a_launcher_has_put_into_the_environment_is_not_read(job):
    lies = {"RANK": "5", "WORLD_SIZE": "9", "LOCAL_RANK": "5", "MASTER_ADDR": "192.0.2.1"}
    members = [job.member(**lies, MASTER_PORT="1"), job.member(**lies, MASTER_PORT="1")]
    trains_in(members[0], "dp=2")
    job.hurry.touch()

    assert [member.end(120) for member in members] == [0, 0]


# The loop of the page: a member that dies is replaced, one that has left is not.
def test_a_loop_of_plain_python_replaces_a_member_that_dies(job):
    other = job.started(GUIDE, job.address, "--secret-file", job.secret, "--steps", 99_999)
    loop = looped(job)
    says_world(other, "dp=2")
    os.kill(python_of(loop), signal.SIGTERM)
    assert loop.end(60) == 0
    says_world(other, "dp=1")
    loop = looped(job)
    says_world(other, "dp=2")
    killed = python_of(loop)
    os.kill(killed, signal.SIGKILL)
    loop.wait_for(lambda: python_of(loop) not in (0, killed))

    assert loop.child.poll() is None


def says_world(process, layout):
    """Waits until the script of the guides trains in a layout."""
    process.wait_for(lambda: process.lines and f"in World({layout}," in process.lines[-1])


def looped(job):
    """The loop that the page gives, in a shell."""
    page = GUIDE.parents[2] / "docs" / "guide" / "launchers" / "python.md"
    (line,) = re.findall(r"`(until python [^`]*)`", page.read_text())
    line = line.replace("python examples/guides/elastic.py", f"{sys.executable} {GUIDE}")
    line = line.replace("10.0.0.1:7070", f"{job.address} --secret-file {job.secret} --steps 99999")
    return job.started("-c", f"import os; os.execlp('bash', 'bash', '-c', {line!r})")


def python_of(loop):
    """The process that runs in a loop now, 0 for none."""
    children = Path(f"/proc/{loop.child.pid}/task/{loop.child.pid}/children").read_text().split()
    found = [each for each in children if GUIDE.name in Path(f"/proc/{each}/cmdline").read_text()]
    return int(found[0]) if found else 0
