"""Builds, tests and measures everything that needs a GPU, in one call of less than 8 minutes.

Works offline with the torch, CUDA, CMake and pybind11 of the Python that runs it, and needs nothing
else. Writes `results.json` and `results.md` into --out: the machine, every step with its outcome,
counts of tests, and the tables. A step that fails or runs out of its time fails no other one; the
exit status is 1 when a step failed, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
SCHEMA_VERSION = 1
LIMIT_S = 470.0
SANITIZER_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SANITIZED = "--gtest_filter=Gpu*-*Large*"  # large ones would take an hour
#: What NCCL's source says lets several ranks share a GPU; the tests find out which works.
SHARING = {
    "NCCL_MULTI_RANK_GPU_ENABLE=1": {"NCCL_MULTI_RANK_GPU_ENABLE": "1"},
    "NCCL_HOSTID, NCCL_NET=Socket": {"NCCL_NET": "Socket"},
}


@dataclass
class Step:
    """What became of one step: `status` is ok, failed or skipped; `data` is what it measured."""

    name: str
    status: str
    seconds: float
    detail: str = ""
    data: Any = None


class SkipStepError(Exception):
    """The step cannot run here; the message says why."""


@dataclass
class Check:
    """A run: its folders, its deadline, and the steps so far."""

    out: Path
    build: Path
    deadline: float
    steps: list[Step] = field(default_factory=list)

    def step(self, name: str, work: Callable[[float], tuple[str, Any]], limit_s: float) -> bool:
        """Runs one step with at most `limit_s` of the time that is left."""
        begin = time.monotonic()
        limit_s = min(limit_s, self.deadline - begin)
        try:
            if limit_s < 5:
                raise SkipStepError("no time was left")
            detail, data = work(limit_s)
            status = "ok"
        except SkipStepError as error:
            status, detail, data = "skipped", str(error), None
        except Exception as error:  # noqa: BLE001 - whatever it is, the other steps go on
            status, detail, data = "failed", f"{type(error).__name__}: {error}", None
        seconds = time.monotonic() - begin
        self.steps.append(Step(name, status, round(seconds, 1), detail, data))
        first = detail.splitlines()[0] if detail else ""
        sys.stderr.write(f"== {name}: {status}, {seconds:.0f} s  {first}\n")
        self.write()
        return status == "ok"

    def write(self) -> None:
        """Writes what is known so far, so that a call that is cut off leaves something."""
        results = {
            "schema_version": SCHEMA_VERSION,
            "kind": "gpu-check",
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "steps": [asdict(step) for step in self.steps],
        }
        (self.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        (self.out / "results.md").write_text(as_markdown(results))


def command(
    arguments: list[str | Path],
    limit_s: float,
    log: Path,
    environment: dict[str, str] | None = None,
    good: tuple[int, ...] = (0,),
) -> str:
    """Runs a program; returns what it wrote to stdout, all of which also goes to `log`.

    Raises:
        RuntimeError: it failed or ran out of time; with the end of its output.
    """
    full = dict(os.environ) | {"OMP_NUM_THREADS": "1"} | (environment or {})
    words = [str(argument) for argument in arguments]
    with subprocess.Popen(
        words,
        cwd=ROOT,
        env=full,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=limit_s)
            end = f"exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            stdout, stderr = process.communicate()
            end = f"it took longer than {limit_s:.0f} s"
    log.write_text(f"$ {' '.join(words)}\n{stdout}\n{stderr}\n{end}\n")
    if process.returncode not in good:
        tail = "\n".join((stdout + stderr).strip().splitlines()[-12:])
        raise RuntimeError(f"{Path(words[0]).name}: {end}\n{tail}")
    return stdout


# ---- the steps -----------------------------------------------------------------------------------


def machine(limit_s: float) -> tuple[str, Any]:
    """What this is run on."""
    import torch

    if not torch.cuda.is_available():
        raise SkipStepError("torch sees no GPU")
    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, check=False, capture_output=True, text=True, timeout=limit_s)
    found = {
        "gpu": properties.name,
        "gpu_memory_bytes": properties.total_memory,
        "num_gpus": torch.cuda.device_count(),
        "driver": done.stdout.strip().splitlines()[0] if done.returncode == 0 else "unknown",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nccl": ".".join(str(part) for part in torch.cuda.nccl.version()),  # type: ignore[no-untyped-call]
        "python": platform.python_version(),
        "cpu_cores": os.cpu_count(),
    }
    return f"{found['gpu']}, driver {found['driver']}, torch {found['torch']}", found


def libraries() -> dict[str, str]:
    """Where programs that do not import torch find its NCCL."""
    folders = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/lib"))
    path = os.pathsep.join([*map(str, folders), os.environ.get("LD_LIBRARY_PATH", "")])
    return {"LD_LIBRARY_PATH": path}


def build(check: Check, limit_s: float) -> tuple[str, Any]:
    """Configures and builds for this GPU; the tests need a GoogleTest, installed or in out/."""
    carried = ROOT / "out/googletest"
    has_tests = carried.is_dir() or Path("/usr/include/gtest/gtest.h").exists()
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CUDA_ARCHITECTURES": "native",
        "DYNATRAIN_CUDA": "ON",
        "DYNATRAIN_BUILD_PYTHON": "ON",
        "DYNATRAIN_BUILD_TESTS": "ON" if has_tests else "OFF",
        "DYNATRAIN_NATIVE_DIR": str(ROOT / "python/dynatrain"),
        "Python_EXECUTABLE": sys.executable,
    }
    if carried.is_dir():
        options["FETCHCONTENT_SOURCE_DIR_GOOGLETEST"] = str(carried)
        options["CMAKE_DISABLE_FIND_PACKAGE_GTest"] = "ON"
    defines = [f"-D{name}={value}" for name, value in options.items()]
    begin = time.monotonic()
    command(
        ["cmake", "-S", ROOT, "-B", check.build, "-G", "Ninja", *defines],
        limit_s,
        check.out / "configure.log",
    )
    left_s = limit_s - (time.monotonic() - begin)
    targets = ["all", "gpu-benchmarks"]
    command(
        ["cmake", "--build", check.build, "--target", *targets],
        left_s,
        check.out / "build.log",
    )
    return "" if has_tests else "without C++ tests: there is no GoogleTest", {"tests": has_tests}


def skip_reason(case: ElementTree.Element) -> str:
    """Why a test was skipped; GoogleTest prints it, pytest has it as the message."""
    printed = re.search(r": Skipped\n(.*)", case.findtext("system-out") or "")
    if printed:
        return printed.group(1)
    note = case.find("skipped")
    return "" if note is None else (note.get("message") or "")


def count_tests(report: Path) -> tuple[str, Any]:
    """Counts a JUnit report; raises RuntimeError when a test failed."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = [
        c
        for c in cases
        if c.find("skipped") is not None or c.get("status") in ("notrun", "disabled")
    ]
    reasons = {}
    for case in skipped:
        reasons[case.get("name", "")] = skip_reason(case)
    data: dict[str, Any] = {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": [case.get("name") for case in failed],
        "skipped": reasons,
    }
    text = f"{data['passed']} passed, {len(failed)} failed, {len(skipped)} skipped"
    if failed:
        raise RuntimeError(text + ": " + ", ".join(str(name) for name in data["failed"]))
    return text, data


def cpp_tests(check: Check, limit_s: float) -> tuple[str, Any]:
    """The C++ tests labelled gpu."""
    if not (check.build / "CTestTestfile.cmake").exists():
        raise SkipStepError("the C++ tests were not built: there is no GoogleTest")
    report = check.out / "ctest.xml"
    command(
        # Each test is a process, and a context on the GPU takes a second of its time.
        ["ctest", "--test-dir", check.build, "-L", "gpu", "-j", "4", "--output-junit", report],
        limit_s,
        check.out / "ctest.log",
        libraries(),
        good=(0, 8),
    )
    return count_tests(report)


def python_tests(check: Check, limit_s: float) -> tuple[str, Any]:
    """The Python tests of tests/gpu: whole switches, in processes that share the GPU."""
    report = check.out / "pytest.xml"
    command(
        [sys.executable, "-m", "pytest", "tests/gpu", f"--junit-xml={report}", "--timeout=150"],
        limit_s,
        check.out / "pytest.log",
        {"PYTHONPATH": str(ROOT / "python")},
        good=(0, 1),
    )
    return count_tests(report)


def sanitizer(check: Check, tool: str, limit_s: float) -> tuple[str, Any]:
    """The copier's tests under one tool of compute-sanitizer."""
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    tests = check.build / "tests/kernels_test"
    if not Path(program).exists():
        raise SkipStepError("there is no compute-sanitizer")
    if not tests.exists():
        raise SkipStepError("the C++ tests were not built: there is no GoogleTest")
    log = check.out / f"{tool}.log"
    try:
        command(
            [program, "--tool", tool, "--error-exitcode", "99", tests, SANITIZED],
            limit_s,
            log,
        )
    except RuntimeError as error:
        if "not supported" in log.read_text():
            lines = [line for line in log.read_text().splitlines() if "not supported" in line]
            raise SkipStepError(f"it refuses this machine: {lines[0]}") from error
        raise
    summary = [line for line in log.read_text().splitlines() if "SUMMARY" in line]
    return summary[-1].strip("= ") if summary else "no errors", None


def kernel_rates(check: Check, limit_s: float) -> tuple[str, Any]:
    """The copier's bandwidth beside a plain device copy."""
    program = check.build / "benchmarks/dynatrain_gpu_kernels"
    return "", json.loads(command([program], limit_s, check.out / "kernels.log"))


def switch_rates(check: Check, transport: str, limit_s: float) -> tuple[str, Any]:
    """A switch of a state on this GPU beside torch's checkpoint and messages for each tensor."""
    program: list[str | Path] = [
        sys.executable,
        ROOT / "benchmarks/switch.py",
        "--device=cuda",
        "--json",
    ]
    pair = ["--source=dp=4", "--target=dp=2,tp=2", "--runs=3", "--params=100e6"]
    environments = list(SHARING.values()) if transport == "nccl" else [{}]
    reasons = []
    for number, environment in enumerate(environments):
        try:
            text = command(
                [*program, *pair, f"--transport={transport}"],
                limit_s / len(environments),
                check.out / f"switch-{transport}-{number}.log",
                {"PYTHONPATH": str(ROOT / "python")} | environment,
            )
            return str(environment or ""), json.loads(text)
        except RuntimeError as error:
            reasons.append(str(error).splitlines()[-1])
    raise SkipStepError("; ".join(reasons)) if transport == "nccl" else RuntimeError(reasons[0])


def demo(check: Check, limit_s: float) -> tuple[str, Any]:
    """The demo's model between two processes on this GPU: tp=2, dp=2, pp=2 where NCCL takes it."""
    attempts = [("nccl", "tp=2;dp=2;pp=2", environment) for environment in SHARING.values()] + [
        ("gloo", "tp=2;dp=2", {})
    ]
    launcher: list[str | Path] = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node=2", ROOT / "examples/train_gpt.py", "--demo", "--device=cuda"]
    launcher += ["--steps-per-layout=5"]
    reasons = []
    for number, (backend, layouts, environment) in enumerate(attempts):
        folder = check.out / f"demo-{number}"
        try:
            command(
                [*launcher, f"--layouts={layouts}", f"--backend={backend}", f"--out={folder}"],
                limit_s / len(attempts),
                check.out / f"demo-{number}.log",
                {"PYTHONPATH": str(ROOT / "python")} | environment,
            )
            data = json.loads((folder / "summary.json").read_text())
            return f"{layouts} over {backend} {environment or ''}", data
        except RuntimeError as error:
            reasons.append(f"{backend} {environment}: {str(error).splitlines()[-1]}")
    raise RuntimeError("\n".join(reasons))


# ---- the table -----------------------------------------------------------------------------------


def as_markdown(results: dict[str, Any]) -> str:
    """The page docs/gpu-results.md is made of."""
    steps = {step["name"]: step for step in results["steps"]}
    found = (steps.get("machine") or {}).get("data") or {}
    lines = [
        f"## {results['date']}: {found.get('gpu', 'no GPU')}",
        "",
        ", ".join(f"{name} {value}" for name, value in found.items() if name != "gpu"),
        "",
        "| step | outcome | seconds | |",
        "|---|---|---|---|",
    ]
    for step in results["steps"]:
        detail = (step["detail"].splitlines() or [""])[0].replace("|", "/")[:160]
        lines.append(f"| {step['name']} | {step['status']} | {step['seconds']} | {detail} |")
    lines += kernel_table((steps.get("kernels") or {}).get("data"))
    for name in ("switch, c10d", "switch, cuda_ipc", "switch, nccl"):
        lines += switch_table(name, (steps.get(name) or {}).get("data"))
    return "\n".join(lines) + "\n"


def kernel_table(data: Any) -> list[str]:
    """Rates of the copier."""
    if not data:
        return []
    lines = [
        "",
        "| copy | MiB | ms, median | ms, min | of a device copy |",
        "|---|---|---|---|---|",
    ]
    for case in data["copies"]:
        lines.append(
            f"| {case['name']} | {case['size_bytes'] / 2**20:.0f} | {case['ms_median']:.3f} "
            f"| {case['ms_min']:.3f} | {case['share']:.2f} |"
        )
    bulk = data["bulk_copy"]
    if bulk:
        right = "" if bulk["is_right"] else ", WRONG BYTES"
        lines.append(
            f"| one run, by cp.async.bulk{right} | 1024 | {bulk['ms_median']:.3f} | "
            f"| {bulk['share']:.2f} |"
        )
    lines += ["", "| boxes | submit with table, µs | min | to the end, µs |", "|---|---|---|---|"]
    for case in data["launches"]:
        lines.append(
            f"| {case['num_boxes']} | {case['submit_us']:.1f} | {case['submit_us_min']:.1f} "
            f"| {case['done_us']:.1f} |"
        )
    return lines


def switch_table(name: str, rows: Any) -> list[str]:
    """Seconds of the contenders."""
    if not rows:
        return []
    lines = ["", f"{name}: {rows[0]['source']} to {rows[0]['target']}", ""]
    lines += ["| contender | s, median | s, min | MiB moved |", "|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['contender']} | {row['seconds_median']:.4f} | {row['seconds_min']:.4f} "
            f"| {row['bytes_moved'] / 2**20:.0f} |"
        )
    return lines


def main() -> int:
    """Runs all steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out/gpu-check")
    parser.add_argument("--build", type=Path, default=ROOT / "build/gpu")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="of all steps together")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    check = Check(options.out.resolve(), options.build, time.monotonic() + options.limit_s)
    if not check.step("machine", machine, 60):
        return 2
    if check.step("build", lambda limit: build(check, limit), 240):
        check.step("C++ tests", lambda limit: cpp_tests(check, limit), 90)
        check.step("kernels", lambda limit: kernel_rates(check, limit), 60)
        check.step("Python tests", lambda limit: python_tests(check, limit), 150)
        check.step("switch, c10d", lambda limit: switch_rates(check, "c10d", limit), 60)
        check.step("switch, cuda_ipc", lambda limit: switch_rates(check, "cuda_ipc", limit), 60)
        check.step("switch, nccl", lambda limit: switch_rates(check, "nccl", limit), 60)
        check.step("demo", lambda limit: demo(check, limit), 90)
        for tool in SANITIZER_TOOLS:
            check.step(tool, partial(sanitizer, check, tool), 40)
    return int(any(step.status == "failed" for step in check.steps))


if __name__ == "__main__":
    sys.exit(main())
