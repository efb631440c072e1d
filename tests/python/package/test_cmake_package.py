"""The core as a CMake package: a C++ user needs no torch, no Python and nothing of the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from checkout import ROOT

BUILD = Path(os.environ.get("DYNATRAIN_BUILD_DIR", ROOT / "build" / "release"))


def call(*command: str | Path) -> str:
    # The environment's CMake and Ninja come first; the system's may be too old.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [str(word) for word in command],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (BUILD / "CMakeCache.txt").exists():
        pytest.skip(f"the library is not built in {BUILD}; `make build` builds it")
    folder = tmp_path_factory.mktemp("consumer")
    call("cmake", "--install", BUILD, "--prefix", folder / "prefix")
    shutil.copytree(ROOT / "examples" / "cpp", folder / "source")
    prefix = f"-DCMAKE_PREFIX_PATH={folder / 'prefix'}"
    call("cmake", "-GNinja", "-S", folder / "source", "-B", folder / "build", prefix)
    call("cmake", "--build", folder / "build")
    return folder / "build" / "plan_switch"


def columns(printed: str) -> list[tuple[float, ...]]:
    rows = re.findall(r"^ *\d+ +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", printed, re.MULTILINE)
    return [tuple(float(number) for number in row) for row in rows]


# 8 layers of 16 MiB in quarters of 32 MiB: dp=2,tp=2 leaves each rank half of its old quarter.
def test_example_plans_a_switch_with_the_installed_package(program: Path):
    printed = call(program, "dp=4", "dp=2,tp=2")

    assert columns(printed) == [(16.0, 16.0, 16.0, 16.0)] * 4
    assert "every element arrives exactly once" in printed


# The same errors reach a C++ user, without Python in between.
def test_example_prints_the_library_error_for_a_wrong_layout(program: Path):
    done = subprocess.run(
        [program, "dp=4", "dq=2"], check=False, capture_output=True, text=True, timeout=30
    )

    assert done.returncode == 1
    assert "dq" in done.stderr
