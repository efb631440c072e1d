"""Builds, tests and measures everything that needs a GPU, in one call of less than 8 minutes.

Works offline with the torch, CUDA, CMake and pybind11 of the Python that runs it, and needs nothing
else. Writes `results.json`, `results.md` and `logs.tar.gz` into --out: the machine, every step with
its outcome, counts of tests, and the tables. What is timed runs alone, the tests side by side after
it. A step that fails or runs out of its time fails no other one; the exit status is 1 when a step
failed, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from gpu_run import (
    ROOT,
    Check,
    SkipStepError,
    cause,
    command,
    count_tests,
    need,
    program,
)

LIMIT_S = 470.0
SANITIZER_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SANITIZER_PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")
SANITIZED = "--gtest_filter=Gpu*-*Large*"  # large ones would take an hour
#: What compute-sanitizer says where it cannot work, whatever the program does.
REFUSALS = re.compile(r"not supported|Failed to init|Unable to init|first instrumented API call")
#: What lets several NCCL ranks share a GPU, by what NCCL's source says; the tests find out.
SHARING = {
    "NCCL_HOSTID, NCCL_NET=Socket": {"NCCL_HOSTID": "host{rank}", "NCCL_NET": "Socket"},
    "NCCL_MULTI_RANK_GPU_ENABLE=1": {"NCCL_MULTI_RANK_GPU_ENABLE": "1"},
}
PYTHON_PATH = {"PYTHONPATH": str(ROOT / "python")}


# ---- the steps -----------------------------------------------------------------------------------


def machine(limit_s: float) -> tuple[str, Any]:
    """What this is run on."""
    import torch

    if not torch.cuda.is_available():
        raise SkipStepError("torch sees no GPU")
    properties = torch.cuda.get_device_properties(0)
    found = {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "gpu_memory_bytes": properties.total_memory,
        "num_gpus": torch.cuda.device_count(),
        "driver": driver_version(limit_s),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nccl": ".".join(str(part) for part in torch.cuda.nccl.version()),  # type: ignore[no-untyped-call]
        "python": platform.python_version(),
        "cpu_cores": os.cpu_count(),
    }
    return f"{found['gpu']}, driver {found['driver']}, torch {found['torch']}", found


def driver_version(limit_s: float) -> str:
    """What nvidia-smi says, where it is."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, check=True, capture_output=True, text=True, timeout=limit_s)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip().splitlines()[0]


def libraries() -> dict[str, str]:
    """Where programs that do not import torch find its NCCL."""
    torch = importlib.util.find_spec("torch")
    sites = [Path(sysconfig.get_path("purelib"))]
    sites += [Path(torch.origin).parents[1]] if torch and torch.origin else []
    folders = sorted({folder for site in sites for folder in site.glob("nvidia/*/lib")})
    path = os.pathsep.join([*map(str, folders), os.environ.get("LD_LIBRARY_PATH", "")])
    return {"LD_LIBRARY_PATH": path}


def architecture() -> str:
    """The GPU's, as CMake has it."""
    import torch

    major, minor = torch.cuda.get_device_capability(0)
    return f"{major}{minor}"


def configure(check: Check, with_tests: bool, limit_s: float) -> None:
    """Configures for this GPU; the tests need a GoogleTest, installed or in out/."""
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CUDA_ARCHITECTURES": architecture(),
        "CMAKE_CUDA_COMPILER": str(program("nvcc", "/usr/local/cuda/bin")),
        "DYNATRAIN_CUDA": "ON",
        "DYNATRAIN_BUILD_PYTHON": "ON",
        "DYNATRAIN_BUILD_TESTS": "ON" if with_tests else "OFF",
        "DYNATRAIN_NATIVE_DIR": str(ROOT / "python/dynatrain"),
        "Python_EXECUTABLE": sys.executable,
        "CMAKE_MAKE_PROGRAM": str(program("ninja")),
    }
    carried = ROOT / "out/googletest"
    if carried.is_dir():
        options["DYNATRAIN_GOOGLETEST_SOURCE"] = str(carried)
    defines = [f"-D{name}={value}" for name, value in options.items()]
    command(
        [program("cmake"), "-S", ROOT, "-B", check.build, "-G", "Ninja", *defines],
        limit_s,
        check.out / f"configure-{'with' if with_tests else 'without'}-tests.log",
    )


def build(check: Check, limit_s: float) -> tuple[str, Any]:
    """Builds all that can be built: a test that does not compile costs itself alone."""
    begin = time.monotonic()
    has_tests = (ROOT / "out/googletest").is_dir() or Path("/usr/include/gtest/gtest.h").exists()
    detail = "" if has_tests else "without C++ tests: there is no GoogleTest"
    try:
        configure(check, has_tests, limit_s)
    except RuntimeError as error:
        if not has_tests:
            raise
        has_tests, detail = False, f"without C++ tests: {cause(error)}"
        configure(check, has_tests, limit_s)
    left_s = limit_s - (time.monotonic() - begin)
    targets = ["all", "gpu-benchmarks"]
    command(
        [program("cmake"), "--build", check.build, "--target", *targets, "--", "-k", "0"],
        left_s,
        check.out / "build.log",
    )
    return detail, {"tests": has_tests}


def built(path: Path) -> Path:
    """The file, where it was built; skips the step otherwise."""
    if not path.exists():
        raise SkipStepError(f"{path.name} was not built")
    return path


def need_module() -> None:
    """Skips the step where the Python module was not built."""
    built(ROOT / "python/dynatrain" / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}")


def cpp_tests(check: Check, limit_s: float) -> tuple[str, Any]:
    """The C++ tests labelled gpu."""
    built(check.build / "CTestTestfile.cmake")
    built(check.build / "tests/kernels_test")
    report = check.out / "ctest.xml"
    report.unlink(missing_ok=True)
    output = command(
        # Each test is a process, and a context on the GPU takes a second of its time.
        [
            *(program("ctest"), "--test-dir", check.build, "-L", "gpu", "-j", "4"),
            *("--output-on-failure", "--output-junit", report),
        ],
        limit_s,
        check.out / "ctest.log",
        libraries(),
        good=(0, 8),
    )
    if not report.exists():
        raise RuntimeError(f"ctest ran no test\n{output}")
    return count_tests(report)


def python_tests(check: Check, chosen: str, limit_s: float) -> tuple[str, Any]:
    """The Python tests of tests/gpu: whole switches, in processes that share the GPU."""
    need("pytest", "cloudpickle", "numpy")
    need_module()
    name = "pytest-" + chosen.replace(" ", "-")
    report = check.out / f"{name}.xml"
    options = ["--timeout=100"]
    if importlib.util.find_spec("pytest_timeout") is None:  # pyproject's setting is unknown then
        options = ["-o", "addopts=-ra --import-mode=importlib"]
    command(
        [
            *(sys.executable, "-m", "pytest", "tests/gpu", "-v", "-k", chosen),
            *(f"--junit-xml={report}", "-p", "no:cacheprovider", *options),
        ],
        limit_s,
        check.out / f"{name}.log",
        PYTHON_PATH,
        good=(0, 1),
    )
    return count_tests(report)


def sanitizer(check: Check, tool: str, limit_s: float) -> tuple[str, Any]:
    """The copier's tests under one tool of compute-sanitizer."""
    tests = built(check.build / "tests/kernels_test")
    log = check.out / f"{tool}.log"
    words: list[str | Path] = [program("compute-sanitizer", *SANITIZER_PLACES), "--tool", tool]
    try:
        text = command([*words, "--error-exitcode", "99", tests, SANITIZED], limit_s, log)
        ran = re.findall(r"\[  PASSED  \] (\d+)", text)
        if not ran or ran[-1] == "0":
            raise RuntimeError("no test ran under it")
    except RuntimeError as error:
        refused = [line for line in log.read_text().splitlines() if REFUSALS.search(line)]
        if refused:
            raise SkipStepError(f"it refuses this machine: {refused[0].strip('= ')}") from error
        raise
    summary = [line.strip("= ") for line in text.splitlines() if "SUMMARY" in line]
    return f"{ran[-1]} tests, {summary[-1] if summary else 'no summary'}", None


def kernel_rates(check: Check, limit_s: float) -> tuple[str, Any]:
    """The copier's bandwidth beside a plain device copy."""
    timer = built(check.build / "benchmarks/dynatrain_gpu_kernels")
    data = json.loads(command([timer], limit_s, check.out / "kernels.log"))
    first = data["copies"][0]
    rate = 2 * first["size_bytes"] / first["plain_ms_median"] / 1e6
    return f"a device copy moves {rate:.0f} GB/s, read and written", data


def sharing() -> list[dict[str, str]]:
    """Ways for NCCL's ranks to share the GPU, the one first that fits the version."""
    import torch

    ways = list(SHARING.values())
    recent = torch.cuda.nccl.version() >= (2, 30)  # type: ignore[no-untyped-call]
    return ways[::-1] if recent else ways


def switch_rates(check: Check, transport: str, limit_s: float) -> tuple[str, Any]:
    """A switch of a state on this GPU beside torch's checkpoint and messages for each tensor."""
    need_module()
    words: list[str | Path] = [sys.executable, ROOT / "benchmarks/switch.py"]
    words += ["--device=cuda", "--json", f"--transport={transport}", "--params=100e6"]
    words += ["--source=dp=4", "--target=dp=2,tp=2"]
    words += ["--runs=3" if transport == "nccl" else "--runs=5"]  # through sockets it is slow
    ways = sharing() if transport == "nccl" else [{}]
    deadline = time.monotonic() + limit_s
    reasons = []
    for number, way in enumerate(ways):
        try:
            text = command(
                [*words, *(f"--env={name}={value}" for name, value in way.items())],
                (deadline - time.monotonic()) * (0.7 if way is not ways[-1] else 1.0),
                check.out / f"switch-{transport}-{number}.log",
                PYTHON_PATH,
            )
            return " ".join(f"{n}={v}" for n, v in way.items()), json.loads(text)
        except RuntimeError as error:
            if "transport='nccl' cannot be had" not in str(error):
                raise
            reasons.append(f"{way}: {cause(error)}")
    raise SkipStepError("NCCL does not share the GPU; " + "; ".join(reasons))


def demo(check: Check, limit_s: float) -> tuple[str, Any]:
    """The demo's model between two processes on this GPU: tp=2, dp=2, pp=2, dp=2.

    It trains over NCCL where NCCL shares the GPU, else over Gloo by way of the host.
    """
    need_module()
    need("rich")
    attempts = [("nccl", way) for way in sharing()] + [("through_host", {})]
    words: list[str | Path] = [sys.executable, ROOT / "benchmarks/gpu_ranks.py", "2"]
    words += [ROOT / "examples/train_gpt.py", "--demo", "--device=cuda", "--steps-per-layout=5"]
    words += ["--layouts=tp=2;dp=2;pp=2;dp=2"]
    deadline = time.monotonic() + limit_s
    reasons = []
    for number, (backend, way) in enumerate(attempts):
        folder, log = check.out / f"demo-{number}", check.out / f"demo-{number}.log"
        try:
            command(
                [*words, f"--backend={backend}", f"--out={folder}"],
                (deadline - time.monotonic()) / (len(attempts) - number),
                log,
                PYTHON_PATH | {"DYNATRAIN_LOG": "INFO"} | way,
            )
        except RuntimeError as error:
            reasons.append(f"{backend} {way}: {cause(error)}")
            continue
        lanes = sorted(set(re.findall(r"device memory travels over (\w+)", log.read_text())))
        detail = f"trained over {backend} {way or ''}, state moved by {', '.join(lanes)}"
        data = json.loads((folder / "summary.json").read_text())
        return "\n".join([detail, *reasons]), data
    raise RuntimeError("\n".join(reasons))


# ---- all of them ---------------------------------------------------------------------------------


def timed_steps(check: Check) -> None:
    """What is timed, one after the other."""
    check.step("kernels", partial(kernel_rates, check), 45)
    for transport, limit_s in {"cuda_ipc": 60, "c10d": 60, "nccl": 80}.items():
        check.step(f"switch, {transport}", partial(switch_rates, check, transport), limit_s)


def untimed_steps(check: Check) -> None:
    """Tests, side by side: they wait for processes and contexts more than for the GPU."""

    def nccl_and_demo() -> None:
        chosen = partial(python_tests, check, "share_a_gpu")
        check.step("NCCL on a shared GPU", chosen, 110)
        check.step("demo", partial(demo, check), 110)

    lanes: list[Callable[[], object]] = [
        lambda: check.step("C++ tests", partial(cpp_tests, check), 150),
        lambda: check.step("Python tests", partial(python_tests, check, "not share_a_gpu"), 200),
        nccl_and_demo,
        *(
            partial(check.step, tool, partial(sanitizer, check, tool), 200)
            for tool in SANITIZER_TOOLS
        ),
    ]
    with ThreadPoolExecutor(len(lanes)) as pool:
        for lane in [pool.submit(lane) for lane in lanes]:
            lane.result()


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
    check.step("build", partial(build, check), 240)
    timed_steps(check)
    untimed_steps(check)
    return int(any(step.status == "failed" for step in check.steps))


if __name__ == "__main__":
    sys.exit(main())
