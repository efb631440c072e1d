"""Elastic jobs whose ledger is in a real etcd, and whose coordinator is lost."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager

import pytest

from elastic_jobs import WORKER, Process, asked, losses_of, trains_in, undisturbed
from etcd_servers import Cluster, free_ports

TOTAL, TIMEOUT_S = 250, 30
LAYOUTS = ("dp=2,tp=2", "dp=2", "dp=1")


class Coordinator(Process):
    """One of several coordinators of a job."""

    def said(self):
        """Its lines about where it listens."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def is_in_office(self):
        return any(not each["holder"] for each in self.said())


class Job:
    """Two coordinators of one job in etcd, and the members that a test starts.

    Attributes:
        first: the coordinator in office.
        second: its standby.
    """

    def __init__(self, folder, num_etcd, timeout_s=TIMEOUT_S):
        self.folder = folder
        self.timeout_s = timeout_s
        self.cluster = Cluster(folder, num_etcd)
        self.secret, self.hurry = folder / "secret", folder / "hurry"
        self.processes = []
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
        self.where = ",".join(self.addresses)
        self.first = self.coordinate(self.addresses[0])
        self.first.wait_for(self.first.is_in_office)
        self.second = self.coordinate(self.addresses[1])
        self.second.wait_for(self.second.said)

    def coordinate(self, listen):
        layouts = [word for layout in LAYOUTS for word in ("--layout", layout)]
        files = ["--ledger", self.cluster.ledger(), "--secret-file", self.secret]
        command = ["coordinator", *layouts, *files, "--timeout-s", self.timeout_s, "--json"]
        return self.kept(Coordinator("-m", "dynatrain", *command, "--listen", listen))

    def member(self):
        command = [WORKER, self.where, self.secret, TOTAL, self.hurry, self.timeout_s]
        return self.kept(Process(*command))

    def kept(self, process):
        self.processes.append(process)
        return process

    def ask(self, *question):
        found = asked(self.where, self.secret, *question)
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    def end(self):
        for process in self.processes:
            process.child.send_signal(signal.SIGCONT)
            process.kill()
        self.cluster.end()


@contextmanager
def job_of(folder, num_etcd=1, timeout_s=TIMEOUT_S):
    made = Job(folder, num_etcd, timeout_s)
    try:
        yield made
    finally:
        made.end()


def goes_on_training(member, steps=10):
    done = len(member.told("step"))
    member.wait_for(lambda: len(member.told("step")) >= done + steps)


def check_all_steps(job, members):
    """Lets the job come to its end; every step was done once, with the loss of one process."""
    job.hurry.touch()
    assert [member.end(120) for member in members] == [0] * len(members)
    assert losses_of(members, TOTAL) == pytest.approx(undisturbed(TOTAL), rel=1e-4)


# What the standby is there for. Its store is new, and at another address.
@pytest.mark.long
def test_a_standby_goes_on_where_a_killed_coordinator_was(tmp_path):
    with job_of(tmp_path) as job:
        members = [job.member(), job.member()]
        trains_in(members[0], "dp=2")
        assert not job.second.is_in_office()
        job.first.kill()
        job.second.wait_for(job.second.is_in_office)
        goes_on_training(members[0])
        status = job.ask("status")
        members += [job.member(), job.member()]
        trains_in(members[0], "dp=2,tp=2")
        job.ask("resize", "--layout", "dp=2")
        trains_in(members[0], "dp=2")
        check_all_steps(job, members)

    assert status["world"]["layout"] == "dp=2"  # as the standby has read it
    assert status["num_lost"] == 0


# Two coordinators that both decide would make two worlds of one job.
@pytest.mark.long
def test_a_coordinator_that_wakes_behind_its_lease_ends_and_writes_nothing(tmp_path):
    with job_of(tmp_path) as job:
        members = [job.member(), job.member()]
        trains_in(members[0], "dp=2")
        job.first.child.send_signal(signal.SIGSTOP)
        job.second.wait_for(job.second.is_in_office)
        members += [job.member(), job.member()]
        trains_in(members[0], "dp=2,tp=2")
        job.first.child.send_signal(signal.SIGCONT)
        status = job.first.end(30)
        said = "\n".join(job.first.lines)
        found = job.ask("status")
        check_all_steps(job, members)

    assert status == 1
    assert "this coordinator is not in office any more" in said
    assert found["num_lost"] == 0


# A minority of etcd may be lost, its leader too: that is why it is there.
@pytest.mark.long
def test_a_coordinator_goes_on_when_one_of_three_members_of_etcd_is_lost(tmp_path):
    with job_of(tmp_path, num_etcd=3, timeout_s=60) as job:
        members = [job.member(), job.member()]
        trains_in(members[0], "dp=2")
        job.cluster.kill(job.cluster.leader())
        members += [job.member(), job.member()]
        trains_in(members[0], "dp=2,tp=2")
        is_alone = not job.second.is_in_office()
        check_all_steps(job, members)

    assert is_alone
    assert job.first.child.poll() != 1


# Nobody can decide then: it must be told, and it must not cost a step.
@pytest.mark.long
def test_an_etcd_that_is_lost_ends_elasticity_and_no_training(tmp_path):
    with job_of(tmp_path) as job:
        members = [job.member(), job.member()]
        trains_in(members[0], "dp=2")
        job.cluster.end()
        status = job.first.end(60)
        goes_on_training(members[0])
        refused = asked(job.where, job.secret, "status")
        job.cluster.processes[0] = job.cluster.started(0)
        job.second.wait_for(job.second.is_in_office)
        members += [job.member(), job.member()]
        trains_in(members[0], "dp=2,tp=2")
        check_all_steps(job, members)

    assert status == 1
    assert any("etcd does not answer" in line for line in job.first.lines)
    assert any("the standby goes on waiting" in line for line in job.second.lines)
    assert refused.returncode == 1
    assert "members that train go on, nobody joins or leaves without one" in refused.stderr
