"""The wheel and pip's install: built without torch, used under the oldest and the newest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from checkout import ROOT

#: pip drives CMake here as it does on a user's machine, in a build folder of its own.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "DYNATRAIN_BUILD_DIR"}
OLDEST_PYTHON = (
    Path(os.environ.get("DYNATRAIN_OLDEST_VENV", ROOT / ".venv-torch211")) / "bin/python"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    subprocess.run(
        [*pip, "--wheel-dir", str(folder), str(ROOT)], check=True, env=ENVIRONMENT, timeout=1200
    )
    (built,) = folder.glob("*.whl")
    return built


def unpacked(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


# One wheel for all torch versions is what the torch-free build is for.
@pytest.mark.long
@pytest.mark.parametrize(
    ("python", "torch_version"), [(Path(sys.executable), "2.15"), (OLDEST_PYTHON, "2.11")]
)
def test_one_wheel_is_healthy_under_this_torch(
    wheel: Path, tmp_path: Path, python: Path, torch_version: str
):
    if not python.exists():
        pytest.skip(f"no environment with torch {torch_version}; `make test-long` makes it")
    if torch_version == "2.15" and sys.version_info < (3, 11):
        pytest.skip("torch 2.15 has no wheel for Python 3.10")
    folder = unpacked(wheel, tmp_path)
    done = subprocess.run(
        [str(python), "-m", "dynatrain_command", "doctor", "--json"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=tmp_path,
        timeout=180,
    )
    report = json.loads(done.stdout)
    found = {probe["name"]: probe["detail"] for probe in report["probes"]}

    assert report["healthy"], report
    assert found["PyTorch"].startswith(torch_version)
    assert found["package"].startswith(str(folder))
    assert found["native module"].startswith(str(folder))


# A type checker of the user's sees the package only if these two are in the wheel.
@pytest.mark.long
def test_wheel_carries_types_and_no_tests(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    assert {"dynatrain/py.typed", "dynatrain/_native.pyi", "dynatrain_command.py"} <= names
    assert not [name for name in names if name.startswith(("tests", "examples", "benchmarks"))]


# Torch is no build requirement, so pip may build apart from it, or in the environment at hand.
@pytest.mark.long
@pytest.mark.parametrize("options", [[], ["--no-build-isolation"]], ids=["isolated", "in_place"])
def test_pip_installs_from_the_checkout(tmp_path: Path, options: list[str]):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *options]
    subprocess.run(
        [*pip, "--target", str(tmp_path), str(ROOT)], check=True, env=ENVIRONMENT, timeout=1200
    )
    statement = "import dynatrain; print(dynatrain.__file__, dynatrain.Layout(dp=2, tp=2))"
    done = subprocess.run(
        [sys.executable, "-c", statement],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        timeout=180,
    )

    assert done.stdout.split() == [str(tmp_path / "dynatrain/__init__.py"), "dp=2,tp=2"]
