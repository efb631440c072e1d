"""`make gpu-check` without a GPU: one bad step costs itself alone, and what is counted is right."""

from __future__ import annotations

import importlib
import json
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
FAILED = """<testcase name="Gpu.Bad" status="fail"><failure message=""/></testcase>"""


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
        raise RuntimeError(f"no kernel in {limit_s:.0f} s")

    check = gpu_check.Check(tmp_path, tmp_path, time.monotonic() + 100)
    assert not check.step("build", fail, 60)
    assert check.step("switch", lambda _: ("fast", {"ms": 3}), 60)

    steps = [(s["name"], s["status"], s["detail"], s["data"]) for s in results(tmp_path)["steps"]]
    assert steps == [
        ("build", "failed", "RuntimeError: no kernel in 60 s", None),
        ("switch", "ok", "fast", {"ms": 3}),
    ]
    assert "| build | failed |" in (tmp_path / "results.md").read_text()


def test_a_step_without_time_is_skipped_and_says_so(gpu_check, tmp_path):
    check = gpu_check.Check(tmp_path, tmp_path, time.monotonic() + 1)
    assert not check.step("demo", pytest.fail, 60)

    (step,) = results(tmp_path)["steps"]
    assert (step["status"], step["detail"]) == ("skipped", "no time was left")


def test_a_program_that_hangs_is_ended_at_its_limit(gpu_check, tmp_path):
    sleeper = [sys.executable, "-c", "print('here', flush=True); import time; time.sleep(100)"]
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


def test_a_failed_test_fails_its_step_by_name(gpu_check, tmp_path):
    report = tmp_path / "ctest.xml"
    report.write_text(CTEST.format(more=FAILED))

    with pytest.raises(RuntimeError, match=r"1 passed, 1 failed, 1 skipped: Gpu\.Bad"):
        gpu_check.count_tests(report)


def test_the_page_has_a_row_for_every_measurement(gpu_check):
    copy = {"name": "one run", "size_bytes": 2**30, "ms_median": 0.7, "ms_min": 0.69, "share": 0.95}
    launch = {"num_boxes": 1000, "submit_us": 15.0, "submit_us_min": 14.0, "done_us": 30.0}
    bulk = {"ms_median": 0.8, "plain_ms_median": 0.7, "share": 0.88, "is_right": True}
    row = {"source": "dp=4", "target": "tp=4", "contender": "dynatrain-c10d"}
    row |= {"seconds_median": 0.5, "seconds_min": 0.4, "bytes_moved": 2**20}
    steps = [
        ("machine", {"gpu": "H100", "driver": "580"}),
        ("kernels", {"copies": [copy], "bulk_copy": bulk, "launches": [launch]}),
        ("switch, c10d", [row]),
    ]
    common = {"status": "ok", "seconds": 1.0, "detail": ""}
    page = gpu_check.as_markdown(
        {"date": "2026-11-24", "steps": [{"name": n, "data": d} | common for n, d in steps]}
    )

    assert "## 2026-11-24: H100" in page
    assert "| one run | 1024 | 0.700 | 0.690 | 0.95 |" in page
    assert "| one run, by cp.async.bulk | 1024 | 0.800 | | 0.88 |" in page
    assert "| 1000 | 15.0 | 14.0 | 30.0 |" in page
    assert "| dynatrain-c10d | 0.5000 | 0.4000 | 1 |" in page
