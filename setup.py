"""Builds the native module with CMake; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


OLDEST_CMAKE = (3, 26)


def version_of(tool: str) -> tuple[int, ...]:
    """Returns what `--version` prints, or nothing: a script in PATH may have lost its package."""
    try:
        done = subprocess.run([tool, "--version"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ()
    found = re.search(r"\d+(\.\d+)+", done.stdout)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def find_tool(name: str, module: str, attribute: str, oldest: tuple[int, ...] = (0,)) -> str | None:
    """Returns a build tool that runs: the one of this Python environment before the system's."""
    try:
        folder = getattr(importlib.import_module(module), attribute)
    except ImportError:
        folder = None
    candidates = [shutil.which(name, path=str(folder)) if folder else None, shutil.which(name)]
    return next((tool for tool in candidates if tool and version_of(tool) >= oldest), None)


class CMakeBuild(build_ext):
    """Configures and builds dynatrain._native in a folder that later builds use again."""

    def build_extension(self, ext: Extension) -> None:
        """Puts the module where setuptools expects it (beside the sources when editable)."""
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # A development build keeps writing beside the sources, also when CMake runs by itself.
        develops = "DYNATRAIN_BUILD_DIR" in os.environ
        native_dir = ROOT / "python" / "dynatrain" if develops else target.parent
        build_dir = os.environ.get("DYNATRAIN_BUILD_DIR") or str(Path(self.build_temp) / "cmake")
        cmake = find_tool("cmake", "cmake", "CMAKE_BIN_DIR", OLDEST_CMAKE)
        if cmake is None:
            raise SystemExit(
                "dynatrain: no CMake 3.26 or newer that runs was found; nothing was built\n"
                "  install it (pip install 'cmake>=3.26' ninja) or let pip do it: "
                "pip install without --no-build-isolation"
            )
        configure = [cmake, "-S", str(ROOT), "-B", build_dir, *self.settings(native_dir)]
        self.call(configure)
        jobs = str(self.parallel or os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", os.cpu_count()))
        self.call([cmake, "--build", build_dir, "--target", "dynatrain_native", "-j", jobs])
        if native_dir != target.parent:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(native_dir / target.name, target)

    def settings(self, native_dir: Path) -> list[str]:
        """Returns the options of the configure call."""
        options = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DDYNATRAIN_NATIVE_DIR={native_dir}",
            "-DDYNATRAIN_BUILD_PYTHON=ON",
        ]
        if "DYNATRAIN_BUILD_DIR" not in os.environ:
            options.append("-DDYNATRAIN_BUILD_TESTS=OFF")
        ninja = find_tool("ninja", "ninja", "BIN_DIR")
        if ninja is not None:
            options += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        return options + os.environ.get("CMAKE_ARGS", "").split()

    def call(self, command: list[str]) -> None:
        """Runs one CMake step; on failure stops with its exit status and no Python traceback."""
        done = subprocess.run(command, check=False)
        if done.returncode != 0:
            raise SystemExit(f"dynatrain: the native build failed (see above): {' '.join(command)}")


setup(
    ext_modules=[Extension("dynatrain._native", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
