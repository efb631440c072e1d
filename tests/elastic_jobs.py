"""Members of an elastic job as tests start them: processes that nobody has started together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch.distributed as dist

import dynatrain
import training_jobs as jobs

HERE = Path(__file__).parent
WORKER = HERE / "elastic_worker.py"
TOTAL, TIMEOUT_S = 250, 30


class Process:
    """A child whose lines are read as they come.

    Attributes:
        lines: what it has written so far.
    """

    def __init__(self, *command, within=(), **environment):
        self.lines = []
        self._changed = threading.Condition()
        paths = os.pathsep.join([str(HERE.parent / "python"), str(HERE)])
        self.child = subprocess.Popen(
            [*within, sys.executable, "-u", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.child.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def said(self):
        """What it has said as lines of JSON."""
        with self._changed:
            return [json.loads(line) for line in self.lines if line.startswith("{")]

    def told(self, kind):
        """What it has said of a kind, as JSON lines with a ``kind``."""
        return [each for each in self.said() if each.get("kind") == kind]

    def wait_for(self, is_there, seconds=60):
        """Waits until ``is_there()``, asked whenever a line has come; fails with all lines."""
        until = time.monotonic() + seconds
        with self._changed:
            while not is_there():
                left = until - time.monotonic()
                ended = self.child.poll() is not None and not self._reader.is_alive()
                if left <= 0 or ended:
                    raise AssertionError("\n".join(self.lines[-60:]))
                self._changed.wait(min(left, 0.5))

    def end(self, seconds=30):
        """Its exit status once it has ended by itself; fails with what its threads do."""
        try:
            status = self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.child.send_signal(signal.SIGUSR1)  # a member says then where its threads stand
            self._reader.join(3)
            raise AssertionError("\n".join(self.lines[-120:])) from None
        self._reader.join(5)
        return status

    def kill(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()


def asked(where, secret, *question, within=()):
    """How the command ends by which an operator asks the coordinators at ``where``."""
    options = ["--coordinator", where, "--secret-file", secret, "--json"]
    return subprocess.run(
        [*within, sys.executable, "-m", "dynatrain", *map(str, (*question, *options))],
        env={"PYTHONPATH": str(HERE.parent / "python"), "PATH": "/usr/sbin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Job:
    """A coordinator with its layouts, and the members that a test starts."""

    def __init__(
        self, folder, layouts, *, traces=None, office=("127.0.0.1", ()), timeout_s=TIMEOUT_S
    ):
        self.timeout_s = timeout_s
        self.traces = traces  # folder for what the machines of the protocol do
        address, self.within = office  # before commands of coordinator and operators
        self.layouts = layouts
        self.folder = folder
        self.secret = folder / "secret"
        self.hurry = folder / "hurry"
        self.processes = []
        self.coordinator = self.coordinate(f"{address}:0")
        self.address = self.coordinator.said()[0]["address"]

    def coordinate(self, listen="127.0.0.1:0"):
        layouts = [word for layout in self.layouts for word in ("--layout", layout)]
        files = ["--ledger", self.folder / "ledger", "--secret-file", self.secret]
        command = ["coordinator", *layouts, *files, "--timeout-s", self.timeout_s, "--json"]
        if self.traces is not None:
            command += ["--trace", self.traces / "coordinator.trace"]
        process = self.started("-m", "dynatrain", *command, "--listen", listen, within=self.within)
        process.wait_for(process.said)
        return process

    def started(self, *command, within=(), **environment):
        if self.traces is not None:
            environment["DYNATRAIN_TRACE"] = str(self.traces)
        process = Process(*command, within=within, **environment)
        self.processes.append(process)
        return process

    def member(self, within=(), total=TOTAL, **environment):
        command = (WORKER, self.address, self.secret, total, self.hurry, self.timeout_s)
        return self.started(*command, within=within, **environment)

    def ask(self, *question):
        """What the coordinator answers to a command, as an operator gives it."""
        found = asked(self.address, self.secret, *question, within=self.within)
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)


def trains_in(member, layout):
    member.wait_for(lambda: member.told("step") and member.told("step")[-1]["layout"] == layout)


def undisturbed(total):
    """The loss of every step of the same job on one rank."""
    session = dynatrain.init(jobs.build, "dp=1", initialize=jobs.initialize)
    losses = [jobs.train_step(session.state, session.world, step) for step in range(total)]
    session.close()
    dist.destroy_process_group()
    return losses


def losses_of(members, total):
    """The loss of each step, joined over the ranks that trained it; every rank, once."""
    shares = {}
    for member in members:
        for said in member.told("step"):
            shares.setdefault((said["step"], said["layout"]), []).append(said)
    assert sorted(step for step, _ in shares) == list(range(total))  # no step in two worlds
    for (_, layout), each in shares.items():
        num_ranks = dynatrain.Layout.parse(layout).world_size
        assert sorted(said["place"] for said in each) == [
            [rank, rank, num_ranks] for rank in range(num_ranks)
        ]
    return [
        sum(said["loss"] for said in each) / len(each) for (_, _), each in sorted(shares.items())
    ]


def shares_by_step(members):
    """What each rank has told of each step, by step and then by the epoch that did it."""
    shares = {}
    for said in (each for member in members for each in member.told("step")):
        shares.setdefault(said["step"], {}).setdefault(said["epoch"], []).append(said)
    return shares


def check_losses(members):
    """Each step has the loss of an undisturbed run, in the last world that did it."""
    shares = shares_by_step(members)
    for step, expected in enumerate(undisturbed(TOTAL)):
        last = shares[step][max(shares[step])]
        loss = sum(each["loss"] for each in last) / len(last)
        assert loss == pytest.approx(expected, rel=1e-4), f"step {step} in {last[0]['layout']}"


def went_back(members):
    """Where each member went back to, in its own words."""
    events = [each for member in members for each in member.told("event")]
    return [each["text"] for each in events if each["what"] == "went-back"]


def check_repeated(members, layout, told=("loss",)):
    """Steps that were done twice in a layout had the same losses both times, bit for bit."""
    repeated = 0
    for step, epochs in shares_by_step(members).items():
        same = [each for each in epochs.values() if each[0]["layout"] == layout]
        if len(same) > 1:
            repeated += 1
            first, again = (
                {each["place"][0]: [each[name] for name in told] for each in shares}
                for shares in same[:2]
            )
            common = first.keys() & again.keys()
            assert [first[r] for r in common] == [again[r] for r in common], step
    assert repeated, "nothing was repeated, and so nothing was compared"


@contextmanager
def running(folder, layouts, timeout_s=TIMEOUT_S):
    """A job whose processes end with the test."""
    made = Job(folder, layouts, timeout_s=timeout_s)
    try:
        yield made
    finally:
        for process in made.processes:
            process.kill()
