"""`make gpu-check` without a GPU: one bad step costs itself alone, and what is counted is right."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time

import pytest

from checkout import ROOT

CTEST = """<testsuite>
<testcase name="Gpu.Good" status="run"/>
<testcase name="Gpu.Skipped" status="notrun"><skipped message="SKIP_REGULAR_EXPRESSION_MATCHED"/>
<system-out>x.cpp:25: Skipped
needs a GPU: none is here
[  SKIPPED ] Gpu.Skipped (0 ms)</system-out></testcase>{more}
</testsuite>"""
FAILED = """<testcase name="Gpu.Bad" status="fail"><failure message="">bytes differ</failure>
</testcase>"""


@pytest.fixture(scope="module")
def gpu_check():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("gpu_check")
    finally:
        sys.path.pop(0)


def results(folder):
    return json.loads((folder / "results.json").read_text())


# The machine is lent for minutes: what stands behind a failure must still run.
def test_a_failed_step_is_told_and_the_others_go_on(gpu_check, tmp_path):
    def fail(limit_s):
        raise RuntimeError(f"ninja: exit status 1\nnvcc\nno kernel in {limit_s:.0f} s")

    check = gpu_check.Check(tmp_path, tmp_path, time.monotonic() + 100)
    assert not check.step("build", fail, 60)
    assert check.step("switch", lambda _: ("fast", {"ms": 3}), 60)

    steps = [
        (s["name"], s["status"], s["detail"].split("\n")[0], s["data"])
        for s in results(tmp_path)["steps"]
    ]
    assert steps == [
        ("build", "failed", "no kernel in 60 s", None),
        ("switch", "ok", "fast", {"ms": 3}),
    ]
    page = (tmp_path / "results.md").read_text()
    assert "| build | failed |" in page
    assert "ninja: exit status 1\nnvcc\n" in page


def test_a_step_without_time_is_skipped_and_says_so(gpu_check, tmp_path):
    check = gpu_check.Check(tmp_path, tmp_path, time.monotonic() + 1)
    assert not check.step("demo", pytest.fail, 60)

    (step,) = results(tmp_path)["steps"]
    assert (step["status"], step["detail"]) == ("skipped", "no time was left")


def test_a_program_that_hangs_is_ended_at_its_limit(gpu_check, tmp_path):
    sleeper = ["sh", "-c", "echo here; exec sleep 100"]
    with pytest.raises(RuntimeError, match="longer than 3 s\nhere"):
        gpu_check.command(sleeper, 3, tmp_path / "log")

    assert "here" in (tmp_path / "log").read_text()


# A skipped test that counts as passed would be the GPU's success without a GPU.
def test_skipped_tests_are_counted_with_their_reason(gpu_check, tmp_path):
    report = tmp_path / "ctest.xml"
    report.write_text(CTEST.format(more=""))

    text, data = gpu_check.count_tests(report)
    assert text == "1 passed, 0 failed, 1 skipped"
    assert data["skipped"] == {"Gpu.Skipped": "needs a GPU: none is here"}


# All tests skipped is what a machine without a GPU gives, and no success.
def test_a_step_of_which_every_test_was_skipped_is_skipped(gpu_check, tmp_path):
    report = tmp_path / "ctest.xml"
    report.write_text(CTEST.format(more="").replace('<testcase name="Gpu.Good" status="run"/>', ""))
    check = gpu_check.Check(tmp_path, tmp_path, time.monotonic() + 100)
    check.step("C++ tests", lambda _: gpu_check.count_tests(report), 60)

    (step,) = results(tmp_path)["steps"]
    assert step["status"] == "skipped"
    assert step["detail"].endswith("1 skipped: needs a GPU: none is here")
    assert step["data"]["outcomes"] == {"Gpu.Skipped": "skipped"}


def test_a_failed_test_fails_its_step_by_name(gpu_check, tmp_path):
    report = tmp_path / "ctest.xml"
    report.write_text(CTEST.format(more=FAILED))

    with pytest.raises(Exception, match=r"1 passed, 1 failed, 1 skipped\nGpu\.Bad: bytes differ"):
        gpu_check.count_tests(report)


# Which of NCCL's ways works is known from the tests that passed, whatever another one did.
def test_what_a_failed_step_measured_is_kept(gpu_check, tmp_path):
    report = tmp_path / "ctest.xml"
    report.write_text(CTEST.format(more=FAILED))
    check = gpu_check.Check(tmp_path, tmp_path, time.monotonic() + 100)
    assert not check.step("C++ tests", lambda _: gpu_check.count_tests(report), 60)

    (step,) = results(tmp_path)["steps"]
    outcomes = {"Gpu.Good": "passed", "Gpu.Skipped": "skipped", "Gpu.Bad": "failed"}
    assert (step["status"], step["data"]["outcomes"]) == ("failed", outcomes)
    assert "bytes differ" in (tmp_path / "results.md").read_text()


SANITIZED = {
    "skipped": [
        ("Error: Device not supported", 1),
        ("========= Device not supported\n[  PASSED  ] 0 tests.", 0),
    ],
    "ok": [("[  PASSED  ] 9 tests.\n========= ERROR SUMMARY: 0 errors", 0)],
    "failed": [
        ("[  PASSED  ] 0 tests.", 0),
        ("========= ERROR SUMMARY: 3 errors\n[  PASSED  ] 9 tests.", 99),
    ],
}


# A tool that cannot work on the machine says nothing of the kernels; silence would be a success.
@pytest.mark.parametrize("outcome", SANITIZED)
def test_a_sanitizer_that_refuses_the_machine_is_skipped(gpu_check, monkeypatch, tmp_path, outcome):
    tool = tmp_path / "compute-sanitizer"
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/kernels_test").touch()
    monkeypatch.setattr(gpu_check, "program", lambda *_: tool)
    for output, exit_status in SANITIZED[outcome]:
        tool.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {exit_status}\n")
        tool.chmod(0o755)
        check = gpu_check.Check(tmp_path, tmp_path, time.monotonic() + 100)
        check.step(
            "memcheck", lambda limit_s, c=check: gpu_check.sanitizer(c, "memcheck", limit_s), 60
        )

        (step,) = results(tmp_path)["steps"]
        assert step["status"] == outcome, step["detail"]


# The machine may lack any package, and nothing can be installed there.
def test_a_step_names_the_packages_that_it_lacks(gpu_check):
    with pytest.raises(gpu_check.SkipStepError, match="this Python has no no_such_module"):
        gpu_check.need("json", "no_such_module")


# What crashed is told last by torch's launchers; the cause stands above it.
def test_the_cause_of_a_failure_is_found_in_its_output(gpu_check):
    refused = "python: exit status 1\nTraceback\ndynatrain.DeviceError: session: it cannot be had\n"
    refused += "  rank 0: ranks [0, 1] share one GPU\n  nothing was moved\n"

    assert gpu_check.cause(RuntimeError(refused)) == "rank 0: ranks [0, 1] share one GPU"
    text = "python: exit status 1\n[rank1]: ValueError: three\n[rank1]:   and so on"
    assert gpu_check.cause(RuntimeError(text)) == "[rank1]: ValueError: three"
    late = "python: it took longer than 30 s\n# 4 ranks\n"
    assert gpu_check.cause(RuntimeError(late)) == "python: it took longer than 30 s"


RANKS = """import os, sys
names = ("RANK", "WORLD_SIZE", "NCCL_HOSTID")
sys.stdout.write(" ".join(os.environ[name] for name in names) + "\\n")
"""


# NCCL takes ranks of one host id for ranks of one host, and refuses them one GPU.
def test_each_rank_has_a_host_id_of_its_own(tmp_path):
    (tmp_path / "rank.py").write_text(RANKS)
    words = [sys.executable, ROOT / "benchmarks/gpu_ranks.py", "2", tmp_path / "rank.py"]
    environment = dict(os.environ) | {"NCCL_HOSTID": "host{rank}"}
    done = subprocess.run(
        words, check=True, capture_output=True, text=True, env=environment, timeout=60
    )

    assert sorted(done.stdout.splitlines()) == ["0 2 host0", "1 2 host1"]


# A rank that waits for a dead one would take the whole time of the step.
def test_a_failed_rank_ends_the_others(tmp_path):
    (tmp_path / "rank.py").write_text(
        "import os, sys, time\nif os.environ['RANK'] == '1': sys.exit(3)\ntime.sleep(60)"
    )
    words = [sys.executable, ROOT / "benchmarks/gpu_ranks.py", "2", tmp_path / "rank.py"]

    assert subprocess.run(words, check=False, timeout=30).returncode == 3


def test_the_page_has_a_row_for_every_measurement(gpu_check):
    copy = {"name": "one run", "size_bytes": 2**30, "ms_median": 0.7, "ms_min": 0.69}
    copy |= {"plain_ms_median": 0.665, "share": 0.95}
    launch = {"num_boxes": 1000, "submit_us": 15.0, "submit_us_min": 14.0, "done_us": 30.0}
    launch |= {"is_prepared": True}
    row = {"source": "dp=4", "target": "tp=4", "contender": "dynatrain-c10d"}
    row |= {"seconds_median": 0.5, "seconds_min": 0.4, "seconds_first": 0.9}
    row |= {"stop_seconds_median": 0.7, "bytes_moved": 2**30, "share_of_ceiling": 0.25}
    row |= {"device_peak_bytes": 33 * 2**20, "planned_device_peak_bytes": 30 * 2**20}
    shared = "test_nccl_between_ranks_that_share_a_gpu"
    outcomes = {f"{shared}[host_ids-2]": "passed", f"{shared}[host_ids-4]": "skipped"}
    switch = {"source": "dp=2", "target": "pp=2", "prepared": True, "stop_seconds": 0.04}
    switch |= {"transfer_seconds": 0.01, "bytes_moved": 2**20, "lower_bound_bytes": 2**20}
    switch |= {"fingerprint_before": "a", "fingerprint_after": "a"}
    steps = [
        ("machine", {"gpu": "H100", "driver": "580"}),
        ("kernels", {"copies": [copy], "launches": [launch]}),
        ("switch, c10d", [row]),
        ("NCCL on a shared GPU", {"outcomes": outcomes, "skipped": {"a test": "its reason"}}),
        ("demo", {"loss_gap_max": 2e-6, "switches": [switch]}),
    ]
    common = {"status": "ok", "seconds": 1.0, "detail": ""}
    page = sys.modules[gpu_check.Check.__module__].as_markdown(
        {"date": "2026-11-24", "steps": [{"name": n, "data": d} | common for n, d in steps]}
    )

    assert "## 2026-11-24: H100" in page
    assert "driver 580" in page
    assert "| one run | 1024 | 0.700 | 0.690 | 0.665 | 0.95 | 0.9 |" in page
    assert "| 1000, prepared | 15.0 | 14.0 | 30.0 | 20 |" in page
    assert "| dynatrain-c10d | 0.5000 | 0.4000 | 0.9000 | 0.7000 | 1024 | 2.00 | 0.25 |" in page
    assert "33 MiB taken at most, 30 MiB planned (1.10)" in page
    assert "| host_ids | passed | skipped |" in page
    assert "| dp=2 to pp=2 | True | 40.0 | 10.0 | 1.00 | 1.00 | True |" in page
    assert "- a test: its reason" in page
