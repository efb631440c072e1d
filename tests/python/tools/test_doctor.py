"""`dynatrain doctor`: the first command that somebody types when something does not work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.cuda.nccl
import torch.distributed

from dynatrain import _native
from dynatrain.tools import cli, doctor, probes, verdict

PACKAGE = Path(doctor.__file__).resolve().parents[1]


def run_command(
    arguments: list[str], python_path: Path, module: str = "dynatrain_command"
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(python_path), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=110,
    )


def copy_without_native_module(folder: Path) -> None:
    ignored = shutil.ignore_patterns("_native*.so", "__pycache__")
    shutil.copytree(PACKAGE, folder / "dynatrain", ignore=ignored)
    shutil.copy(PACKAGE.parent / "dynatrain_command.py", folder)


# Continuous integration reads the JSON form; a field that goes missing breaks it silently.
def test_json_names_every_probe_with_its_state(capsys: pytest.CaptureFixture[str]):
    status = cli.main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)

    assert report["schema_version"] == 1
    assert [probe["name"] for probe in report["probes"]] == [check.name for check in doctor.CHECKS]
    assert report["healthy"] == (status == 0)
    assert report["healthy"], report


# A machine without a GPU is healthy: what is optional is absent, never failed.
def test_missing_optional_part_is_absent_and_missing_required_part_fails():
    def refuse() -> str:
        raise probes.ProbeError("not here")

    assert doctor.run_check(doctor.Check("extra", False, refuse)).status == "absent"
    finding = doctor.run_check(doctor.Check("core", True, refuse))
    assert (finding.status, finding.detail) == ("failed", "not here")


# The system's default gives small pages alone, and nothing else tells why memory comes so slowly.
@pytest.mark.parametrize(
    ("setting", "status"),
    [
        ("always within_size advise [never] deny force", "absent"),
        ("always within_size advise never [deny] force", "absent"),
        ("always within_size [advise] never deny force", "ok"),
        (None, "absent"),
    ],
)
def test_huge_shared_pages_are_absent_where_the_system_gives_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str | None, status: str
):
    file = tmp_path / "shmem_enabled"
    if setting is not None:
        file.write_text(setting + "\n")
    monkeypatch.setattr(probes, "HUGE_SHARED_PAGES", file)

    finding = doctor.run_check(doctor.Check("huge", False, probes.huge_shared_pages))

    assert finding.status == status, finding.detail


# Containers forbid it: the job runs, and its first switch takes longer.
def test_memory_of_processes_is_absent_where_none_of_it_can_be_read(monkeypatch):
    check = doctor.Check("memory", False, probes.memory_of_processes)
    allowed = doctor.run_check(check)
    monkeypatch.setattr(probes, "READ_ANOTHER_PROCESS", "raise SystemExit(1)")
    forbidden = doctor.run_check(check)

    assert allowed.status == "ok", allowed.detail
    assert forbidden.status == "absent"
    assert "SYS_PTRACE" in forbidden.detail


# The native module is what breaks most easily; the doctor must survive its absence to say so.
def test_doctor_runs_where_the_native_module_is_missing(tmp_path: Path):
    copy_without_native_module(tmp_path)

    done = run_command(["doctor", "--json"], tmp_path)
    states = {probe["name"]: probe["status"] for probe in json.loads(done.stdout)["probes"]}

    assert done.returncode == 1
    assert states["native module"] == states["package"] == "failed"
    assert states["PyTorch"] == states["Gloo between two ranks"] == "ok"


# Whoever has two Pythons says by it which one is meant; there was no module to run.
def test_package_is_run_as_the_command():
    asked = ["plan", "dp=2", "tp=2", "--model=llama2-7b", "--json"]
    by_command = run_command(asked, PACKAGE.parent)
    by_package = run_command(asked, PACKAGE.parent, "dynatrain")

    assert by_package.stdout == by_command.stdout != ""
    assert run_command(["plan", "dp=2", "tq=2"], PACKAGE.parent, "dynatrain").returncode == 1


# Every other command needs the package; its user is sent to the doctor, not shown a traceback.
def test_other_command_points_to_the_doctor_where_the_native_module_is_missing(tmp_path: Path):
    copy_without_native_module(tmp_path)

    done = run_command(["plan", "dp=2", "tp=2"], tmp_path)

    assert done.returncode == 1
    assert "dynatrain doctor" in done.stderr
    assert "Traceback" not in done.stderr


# A typo must not look like success to a script.
def test_unknown_command_exits_with_status_two():
    with pytest.raises(SystemExit) as caught:
        cli.main(["doktor"])

    assert caught.value.code == 2


# Who asks for registered staging where the library has no such functions is refused: doctor says it
# first, with what is missing.
@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("", "; can register staging"),
        ("it has no ncclMemAlloc", "; cannot register staging: it has no ncclMemAlloc"),
    ],
)
def test_nccl_probe_says_whether_staging_can_be_registered(monkeypatch, missing, said):
    report = types.SimpleNamespace(problem="", newer_calls=[], registration_problem=missing)
    monkeypatch.setattr(_native, "nccl_report", lambda: report)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 30, 7))

    assert said in probes.nccl()


# A machine without a GPU is where most people try it first: raw text of a loader that misses a
# library reads as a broken installation.
def test_without_a_driver_every_gpu_probe_says_that_the_driver_is_missing(monkeypatch):
    monkeypatch.setattr(probes, "has_driver", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    found = {check.name: doctor.run_check(check) for check in doctor.CHECKS}

    for name in ("NVIDIA driver", "CUDA devices", "CUDA IPC"):
        assert found[name].status == "absent"
        assert "driver" in found[name].detail
        assert "cannot open shared object file" not in found[name].detail
    assert "cannot open shared object file" not in found["NCCL"].detail


# What the native module says of a problem ends in advice for a running job.
def test_a_problem_of_nccl_beside_a_driver_is_one_line(monkeypatch):
    problem = "transport: NCCL is too old\n  no communicator was made\n  import torch first"
    report = types.SimpleNamespace(problem=problem, newer_calls=[], registration_problem="")
    monkeypatch.setattr(probes, "has_driver", lambda: True)
    monkeypatch.setattr(_native, "nccl_report", lambda: report)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 30, 7))

    with pytest.raises(probes.ProbeError, match=r"no transport: NCCL is too old$"):
        probes.nccl()


ALL_OK = {check.name: "ok" for check in doctor.CHECKS}
HOST = ["c10d", "shared_memory"]


# Which transport= a job may ask for is what somebody without a GPU wants to know.
@pytest.mark.parametrize(
    ("changed", "usable"),
    [
        ({}, [*HOST, "cuda_ipc", "nccl"]),
        ({"CUDA devices": "absent", "NCCL": "absent", "CUDA IPC": "absent"}, HOST),
        ({"NCCL": "absent"}, [*HOST, "cuda_ipc"]),
        ({"native module": "failed"}, []),
    ],
)
def test_transports_follow_from_the_probes(changed, usable):
    found = verdict.transports(ALL_OK | changed)

    assert [way.name for way in found if way.usable] == usable
    assert all("it needs what is missing" in way.detail for way in found if not way.usable)


# The list of the library and the doctor's must not drift apart.
def test_doctor_speaks_of_every_transport():
    from dynatrain.generation.lanes import TRANSPORTS

    assert {way.name for way in verdict.transports(ALL_OK)} == set(TRANSPORTS) - {"auto"}


def test_the_verdict_names_what_a_job_cannot_do_without():
    assert "c10d" in verdict.verdict(ALL_OK | {"torch's c10d": "failed"})
    assert "no GPU" in verdict.verdict(ALL_OK | {"CUDA devices": "absent"})
    assert "on a GPU" in verdict.verdict(ALL_OK)


def test_json_has_the_fields_of_the_reference(reference_fields):
    report = doctor.as_json([doctor.Finding(name, "ok", True, "", 0.0) for name in ALL_OK])

    assert set(report) == reference_fields("Doctor")
    assert set(report["probes"][0]) == reference_fields("Doctor", of="probes")
