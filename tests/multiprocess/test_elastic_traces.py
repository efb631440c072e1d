"""What real processes of an elastic job did, replayed through fresh machines of the protocol."""

from __future__ import annotations

import json
import re

import pytest

from dynatrain.elastic.trace import Difference, replay
from elastic_jobs import Job, trains_in

pytestmark = pytest.mark.long

HSDP = "dp=2,dp_replicate=2"
_ACTION = re.compile(r"^\d+ action 1 (\S+)", re.MULTILINE)
_EVENT = re.compile(r"^\d+ event 1 (\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Those of a job that grows, loses a member, is resized, and whose coordinator is killed."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "traces").mkdir()
    job = Job(folder, (HSDP, "dp=3", "dp=2"), traces=folder / "traces")
    try:
        _live(job)
    finally:
        for process in job.processes:
            process.kill()
    return folder / "traces"


def _live(job):
    members = [job.member(), job.member()]
    trains_in(members[0], "dp=2")
    members += [job.member(), job.member()]
    trains_in(members[0], HSDP)
    members.pop().kill()
    trains_in(members[0], "dp=3")
    job.coordinator.kill()
    second = job.coordinate(listen=job.address)
    job.ask("resize", "--layout", "dp=2")
    trains_in(members[0], "dp=2")
    job.hurry.touch()
    assert [member.end(120) for member in members] == [0, 0, 0]
    second.child.terminate()
    assert second.end() == 0


# What the simulation proves, it proves of the machine; here it is shown that processes do as it
# says, with the events, times and ledgers of real ones.
def test_fresh_machines_do_what_those_of_real_processes_did(traces):
    files = sorted(traces.glob("*.trace"))

    assert len(files) == 5
    assert {file.name: replay(file) for file in files} == {file.name: None for file in files}


# An empty trace is replayed by anything.
def test_traces_tell_all_that_has_happened(traces):
    coordinator = (traces / "coordinator.trace").read_text()
    members = [file.read_text() for file in traces.glob("member-*.trace")]
    lines = [json.loads(line) for line in coordinator.splitlines() if line.startswith("{")]
    records = [bool(each["begins"]["records"]) for each in lines]

    assert records == [False, True]  # as it was started twice
    assert {"join", "connection-closed", "resize", "vote"} <= set(_EVENT.findall(coordinator))
    assert {"persist", "publish", "send"} <= set(_ACTION.findall(coordinator))
    assert sum("1 end reason=finished" in each for each in members) == 2
    for each in members:
        assert {"at-boundary", "switch-moved"} <= set(_EVENT.findall(each))
        assert {"train", "run-switch", "install"} <= set(_ACTION.findall(each))


# Else the first of these tests would pass whatever the machines do.
def test_one_action_that_is_changed_is_found(traces, tmp_path):
    text = (traces / "coordinator.trace").read_text()
    lines = text.splitlines(keepends=True)
    at = max(at for at, line in enumerate(lines) if "persist attempt-committed attempt=4" in line)
    changed = lines[at].replace("attempt=4", "attempt=5")
    (tmp_path / "changed").write_text("".join([*lines[:at], changed, *lines[at + 1 :]]))

    found = replay(tmp_path / "changed")
    assert isinstance(found, Difference)
    assert (found.line, found.got) == (at + 1, lines[at].split(" action ")[1].rstrip())
