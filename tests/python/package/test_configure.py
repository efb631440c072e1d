"""What a machine has is tried before the build relies on it: being there is not enough."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from checkout import ROOT

pytestmark = pytest.mark.long


def script(path: Path, text: str) -> Path:
    """Makes a program."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def configure(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Configures in `folder`, whose `bin` comes first in PATH."""
    path = [str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    return subprocess.run(
        [
            "cmake",
            "-GNinja",
            "-S",
            ROOT,
            "-B",
            folder / "build",
            "-DDYNATRAIN_BUILD_TESTS=OFF",
            *options,
        ],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": os.pathsep.join(path), **variables},
        timeout=110,
    )


# nvcc comes without a host compiler that it accepts, or without the runtime's library.
def test_nvcc_that_cannot_compile_costs_the_cuda_code_alone(tmp_path: Path):
    nvcc = script(tmp_path / "bin/nvcc", "echo 'nvcc fatal : no host compiler' >&2; exit 1")
    done = configure(tmp_path, CUDACXX=str(nvcc))

    assert done.returncode == 0, done.stderr
    assert "nvcc was found and does not work" in done.stderr


# Who asks for CUDA does not want a build without it.
def test_nvcc_that_cannot_compile_is_refused_when_cuda_is_asked_for(tmp_path: Path):
    nvcc = script(tmp_path / "bin/nvcc", "echo 'nvcc fatal : no host compiler' >&2; exit 1")
    done = configure(tmp_path, "-DDYNATRAIN_CUDA=ON", CUDACXX=str(nvcc))

    assert done.returncode != 0
    assert "no nvcc that works was found; nothing was built" in done.stderr


# A ccache that may not write its folder would fail every single compilation.
def test_ccache_that_fails_is_not_used(tmp_path: Path):
    script(tmp_path / "bin/ccache", "echo 'cannot write' >&2; exit 1")
    done = configure(tmp_path, "-DDYNATRAIN_CUDA=OFF")

    assert done.returncode == 0, done.stderr
    assert "does not work: cannot write" in done.stdout


@pytest.fixture
def broken_googletest(tmp_path: Path) -> str:
    """Returns the option that finds a GoogleTest whose library is not there."""
    package = tmp_path / "package"
    package.mkdir()
    targets = "".join(
        f"add_library(GTest::{name} INTERFACE IMPORTED)\n"
        f"target_link_libraries(GTest::{name} INTERFACE no_such_library)\n"
        for name in ("gtest", "gtest_main")
    )
    (package / "GTestConfig.cmake").write_text(targets, encoding="utf-8")
    return f"-DGTest_DIR={package}"


# An error of CMake's own modules tells a newcomer nothing; three lines say what to install.
def test_googletest_that_cannot_be_had_is_said_with_what_to_install(
    tmp_path: Path, broken_googletest: str
):
    for program in ("apt-get", "git", "sudo"):
        script(tmp_path / f"bin/{program}", f"echo '{program} says no' >&2; exit 1")
    tests = ["-DDYNATRAIN_BUILD_TESTS=ON", "-DDYNATRAIN_INSTALL_GOOGLETEST=ON"]
    done = configure(tmp_path, "-DDYNATRAIN_CUDA=OFF", broken_googletest, *tests)

    assert done.returncode != 0
    assert "need GoogleTest, and none could be had; no test was built" in done.stderr
    assert "no_such_library" in done.stderr
    assert "its repository (git says no)" in done.stderr
    assert "install it (Debian, Ubuntu: apt-get install libgtest-dev)" in done.stderr


# The demo runs where GoogleTest cannot be had.
def test_library_without_tests_asks_for_no_googletest(tmp_path: Path, broken_googletest: str):
    done = configure(tmp_path, "-DDYNATRAIN_CUDA=OFF", broken_googletest)

    assert done.returncode == 0, done.stderr
