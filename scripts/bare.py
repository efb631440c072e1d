#!/usr/bin/env python3
"""Runs commands as on a bare machine: git, Python, g++ and make, and none of a developer's tools.

Usage: scripts/bare.py [--quick] [--deadline SECONDS] [--skip-where-impossible] [-- COMMAND...]
Without a command it runs what a newcomer runs: `make demo`, pip's install, and, unless it has to be
quick, `make test`.

The commands see a copy of this checkout, an empty home, and this machine's system folders without
the CUDA toolkit, GoogleTest, CMake, Ninja and ccache. What they write there goes with the room, so
root's commands may install packages. A room is a mount namespace: it needs root or user namespaces,
and some 12 GB in TMPDIR, on another file system than an overlay.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
CANNOT_RUN = 77
REMOVALS = 20
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ALL_USERS = "4294967295"  # of a uid_map
DPKG_STATUS = Path("/var/lib/dpkg/status")
#: Folders that get a writable layer of their own; what is hidden lies in them.
LAYERED = ("/usr", "/opt", "/etc", "/var/lib", "/var/cache", "/var/log")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES = re.compile(
    r"cmake(-.*)?|ninja-build|ccache|libg(test|mock)-dev|google(test|-mock)|(python3-)?pybind11(-dev)?"
    r"|(?!libcuda1$).*(cuda|nccl|cudnn).*|libnvtoolsext.*"
)
PROGRAMS = ("cmake", "ctest", "cpack", "ninja", "ninja-build", "ccache", "nvcc")
TOOLKITS = ("usr/local/cuda*", "opt/cuda*", "usr/lib/cuda*", "usr/lib/nvidia-cuda-toolkit")
#: Below the prefixes /usr and /usr/local; the driver's libcuda.so.1 stays.
LEFTOVERS = (
    "include/cuda*.h", "include/nccl*.h", "include/nvtx3", "include/crt", "include/gtest",
    "include/gmock", "include/pybind11", "src/googletest", "src/gtest", "lib/cmake/GTest",
    "lib/**/libgtest*", "lib/**/libgmock*", "lib/**/libnccl*", "lib/**/libcudart*",
)  # fmt: skip
HEADERS = ("cuda.h", "cuda_runtime_api.h", "nccl.h", "nvtx3/nvToolsExt.h", "gtest/gtest.h")
NEEDED = ("git", "python3", "g++", "make")
#: What a developer's shell says about tools; names of package indexes and certificates are kept.
FORGOTTEN = re.compile(
    r"(CUDA|NVCC|NCCL|CMAKE|CCACHE|DYNATRAIN|PYTHON|MAKE|MFLAGS|CONDA|TORCH).*|VIRTUAL_ENV|CC|CXX"
    r"|CFLAGS|CXXFLAGS|LDFLAGS|(LD_)?LIBRARY_PATH|C(PLUS_INCLUDE_)?PATH|BASH_ENV|ENV"
)
DEMO = 'scripts/timed "bare: make demo" make demo'
TEST = 'scripts/timed "bare: make test" make test'
#: Over the development install that make has left, whose files are the checkout's.
INSTALL = r"""
scripts/timed "bare: pip install ." .venv/bin/python -m pip install --quiet .
cd /
"$OLDPWD/.venv/bin/python" -c 'import dynatrain; assert "site-packages" in dynatrain.__file__'
"$OLDPWD/.venv/bin/dynatrain" doctor
"""


class CannotRunError(Exception):
    """This machine cannot have a room."""


class EndedError(Exception):
    """A signal asked for the end, or the deadline has passed."""


def say(text: str) -> None:
    """Writes one line to the standard error."""
    os.write(sys.stderr.fileno(), f"bare: {text}\n".encode())  # one call: a handler may say it


class Signals:
    """Signals that ask for the end: the first one becomes an error, where this was allowed.

    Elsewhere it waits, so that nothing is started or removed by half. Later ones change nothing.
    """

    def __init__(self) -> None:
        self._first: signal.Signals | None = None
        self._allowed = False
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._first is not None:
            return
        self._first = signal.Signals(number)
        say(f"ended by {self._first.name}; the room is being removed, which no signal stops")
        self._raise_if_allowed()

    def _raise_if_allowed(self) -> None:
        if self._allowed and self._first is not None:
            raise EndedError(f"ended by {self._first.name}")

    @property
    def status(self) -> int:
        """The exit status that a shell gives to the first signal; 0 where none came."""
        return 0 if self._first is None else 128 + self._first

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Raises EndedError inside, for a signal that has waited, too."""
        self._allowed = True
        try:
            self._raise_if_allowed()
            yield
        finally:
            self._allowed = False


def ask(command: list[str], *, check: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs a short command in a session of its own: Ctrl-C is this process's to handle."""
    return subprocess.run(
        command, check=check, capture_output=True, text=True, start_new_session=True
    )


def layers(workspace: Path) -> dict[Path, Path]:
    """Returns the system folders that get a layer, each with the place of its layer."""
    folders = [folder for folder in map(Path, LAYERED) if folder.is_dir()]
    return {
        folder: workspace / "layers" / "-".join(folder.parts[1:])
        for folder in folders
        if not folder.is_symlink()
    }


def packages_to_hide() -> list[str]:
    """Returns names of installed Debian packages; none on another system."""
    if shutil.which("dpkg-query") is None:
        return []
    query = ["dpkg-query", "--show", "--showformat", "${Package}\n"]
    listed = ask(query, check=True)
    return [name for name in listed.stdout.split() if PACKAGES.fullmatch(name)]


def files_of(packages: list[str]) -> set[Path]:
    """Returns the files of Debian packages."""
    if not packages:
        return set()
    query = ["dpkg-query", "--listfiles", *packages]
    listed = ask(query, check=True)
    paths = {Path(line) for line in listed.stdout.splitlines() if line.startswith("/")}
    return {path for path in paths if path.is_symlink() or path.is_file()}


def files_without_package() -> set[Path]:
    """Returns what a developer has put into the usual places by hand."""
    folders = [*SYSTEM_PATH.split(":"), *os.environ["PATH"].split(":")]
    found = {Path(folder) / program for folder in folders for program in PROGRAMS}
    toolkits = {path for pattern in TOOLKITS for path in Path("/").glob(pattern)}
    real_toolkits = [toolkit.resolve() for toolkit in toolkits]
    for prefix in (Path("/usr"), Path("/usr/local")):
        found |= {path for pattern in LEFTOVERS for path in prefix.glob(pattern)}
        for path in prefix.glob("[bil]*/*"):  # bin, include, lib
            if path.is_symlink() and any(map(path.resolve().is_relative_to, real_toolkits)):
                found.add(path)
    return {path for path in found | toolkits if os.path.lexists(path)}


def hide(paths: set[Path], layer_of: dict[Path, Path]) -> None:
    """Puts whiteouts into the layers: device files (0, 0), as the kernel makes them itself."""
    hidden: set[Path] = set()
    for path in sorted({path.parent.resolve() / path.name for path in paths}):
        folder = next((folder for folder in layer_of if path.is_relative_to(folder)), None)
        if folder is None or hidden & set(path.parents):
            continue  # a home, which the room has not, or in a folder that is hidden
        place = layer_of[folder] / "upper" / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(place, stat.S_IFCHR, os.makedev(0, 0))
        hidden.add(path)


def make_layers(workspace: Path) -> None:
    """Makes the layers, with everything hidden that a bare machine lacks."""
    layer_of = layers(workspace)
    for layer in layer_of.values():
        (layer / "upper").mkdir(parents=True)
        (layer / "scratch").mkdir()
    packages = packages_to_hide()
    hide(files_of(packages) | files_without_package(), layer_of)
    if packages:  # so that they can be installed again
        stanzas = DPKG_STATUS.read_text(encoding="utf-8").split("\n\n")
        names = {f"Package: {name}" for name in packages}
        kept = [stanza for stanza in stanzas if stanza.split("\n", 1)[0] not in names]
        place = layer_of[Path("/var/lib")] / "upper" / DPKG_STATUS.relative_to("/var/lib")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("\n\n".join(kept), encoding="utf-8")


def environment(workspace: Path) -> dict[str, str]:
    """Returns the room's variables: this process's, less what names tools, with pip's cache."""
    kept = {name: value for name, value in os.environ.items() if not FORGOTTEN.fullmatch(name)}
    pip = [sys.executable, "-m", "pip", "cache", "dir"]
    cache = ask(pip).stdout.strip()
    if cache:
        kept.setdefault("PIP_CACHE_DIR", cache)
    home = workspace / "home"
    home.mkdir()
    for name in (".config/pip", ".pip"):
        if (Path.home() / name).is_dir():
            shutil.copytree(Path.home() / name, home / name)
    (workspace / "tmp").mkdir()
    return {**kept, "PATH": SYSTEM_PATH, "HOME": str(home), "TMPDIR": str(workspace / "tmp")}


def unshare() -> list[str]:
    """Returns the command that enters a namespace, which ends with this process.

    Raises:
        CannotRunError: This user may make none.
    """
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"]
    command += ["--kill-child", "--mount-proc", "--propagation", "private"]
    if os.geteuid() != 0:
        command += ["--user", "--map-root-user"]
    missing = [program for program in ("setpriv", "unshare") if shutil.which(program) is None]
    if missing:
        raise CannotRunError(f"there is no {missing[0]} (Debian: apt-get install util-linux)")
    tried = ask([*command, "true"])
    if tried.returncode != 0:
        raise CannotRunError(
            "this user may make no mount namespace, neither as root nor in a user namespace\n  "
            + tried.stderr.strip()
        )
    return command


def mount_layers(workspace: Path) -> None:
    """Lays the layers over this namespace's system folders."""
    whole_machine = Path("/proc/self/uid_map").read_text(encoding="ascii").split()[2] == ALL_USERS
    for folder, layer in layers(workspace).items():
        options = f"lowerdir={folder},upperdir={layer}/upper,workdir={layer}/scratch"
        if not whole_machine:
            options += ",userxattr"
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(folder)]
        done = subprocess.run(mount, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise CannotRunError(f"{folder} cannot be layered: {done.stderr.strip()}")


def preprocesses(header: str) -> bool:
    """True when g++ finds a header and all that it includes."""
    command = ["g++", "-x", "c++", "-E", "-o", os.devnull, "-"]
    text = f"#include <{header}>\n"
    done = subprocess.run(command, check=False, input=text, text=True, capture_output=True)
    return done.returncode == 0


def run_inside(workspace: Path, command: list[str]) -> int:
    """Runs in the namespace: lays the layers, looks whether the room is bare, runs the command."""
    mount_layers(workspace)
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        raise CannotRunError(f"in {SYSTEM_PATH} there is no {missing[0]}")
    present = [program for program in PROGRAMS if shutil.which(program) is not None]
    present += [f"<{header}>" for header in HEADERS if preprocesses(header)]
    if present:
        say(f"the room is not bare, it has {', '.join(present)}")
        return 1
    os.chdir(workspace / "checkout")
    return subprocess.run(command, check=False).returncode


def copy_checkout(folder: Path, signals: Signals) -> None:
    """Copies this checkout; a copy that is cut short is ended with all its processes."""
    command = [ROOT / "scripts/copy_checkout", folder]
    copy = subprocess.Popen(command, start_new_session=True)
    try:
        with signals.allowed():
            status = copy.wait()
    finally:
        if copy.poll() is None:
            os.killpg(copy.pid, signal.SIGKILL)
            copy.wait()
    if status != 0:
        raise subprocess.CalledProcessError(status, command)


def end_room(room: subprocess.Popen[bytes]) -> None:
    """Ends the first process of the room, and with it, before it is gone, all the others."""
    if room.poll() is None:
        children = Path(f"/proc/{room.pid}/task/{room.pid}/children").read_text(encoding="ascii")
        for process in children.split() or [str(room.pid)]:
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
    room.wait()


def run_room(workspace: Path, command: list[str], deadline_seconds: float, signals: Signals) -> int:
    """Makes a room in `workspace` and runs the command there; nothing runs on afterwards."""
    entry = unshare()
    copy_checkout(workspace / "checkout", signals)
    make_layers(workspace)
    inside = [sys.executable, str(ROOT / "scripts/bare.py"), "--inside", str(workspace), "--"]
    room = subprocess.Popen(
        [*entry, *inside, *command],
        env=environment(workspace),
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is this process's to handle
    )
    try:
        with signals.allowed():
            return room.wait(deadline_seconds)
    except subprocess.TimeoutExpired:
        raise EndedError(f"the deadline of {deadline_seconds:g} s has passed") from None
    finally:
        end_room(room)


def remove(workspace: Path) -> bool:
    """Removes the room, or says what is left of it; returns whether it is gone.

    Overlayfs leaves folders there that not even their owner may read, and for a moment a process
    that was killed may go on making and removing files.
    """
    for _ in range(REMOVALS):
        try:
            for folder in workspace.glob("layers/*/scratch/work"):
                folder.chmod(0o700)
            shutil.rmtree(workspace)
        except OSError as error:
            reason = error
            time.sleep(0.25)
        else:
            return True
    say(f"{workspace} is left: {reason}\n  no mount holds it; remove it with: rm -rf {workspace}")
    return False


def parse() -> argparse.Namespace:
    """Returns the command line."""
    parser = argparse.ArgumentParser(description="Runs commands as on a bare machine.")
    parser.add_argument("--deadline", type=float, default=5400, help="seconds (default 5400)")
    parser.add_argument(
        "--skip-where-impossible", action="store_true", help="succeed where no room can be made"
    )
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="leave `make test` out")
    parser.add_argument("command", nargs="*")
    arguments = parser.parse_args()
    if not arguments.command:
        steps = [DEMO, INSTALL] if arguments.quick else [DEMO, TEST, INSTALL]
        arguments.command = ["bash", "-euc", "\n".join(steps)]
    return arguments


def run(arguments: argparse.Namespace, signals: Signals) -> int:
    """Makes the room, runs the command, removes the room; returns the command's exit status."""
    workspace = Path(tempfile.mkdtemp(prefix="dynatrain-bare-"))
    ended = ""
    try:
        status = run_room(workspace, arguments.command, arguments.deadline, signals)
    except EndedError as error:
        status, ended = 1, str(error)
    finally:
        removed = remove(workspace)
    if ended:
        say(f"{ended}; the room {'is' if removed else 'is not'} removed")
    return status if removed else status or 1


def main() -> int:
    """Runs the command in a room, or, as the process in there, runs it; returns the exit status.

    Where a signal came, at whatever time, it is the one that a shell gives to it.
    """
    arguments = parse()
    signals = Signals() if arguments.inside is None else None
    try:
        if signals is None:
            return run_inside(arguments.inside, arguments.command)
        status = run(arguments, signals)
    except CannotRunError as error:
        say(f"cannot run here: {error}")
        status = CANNOT_RUN
        if arguments.skip_where_impossible:
            say("SKIPPED, nothing was tried on a bare machine")
            status = 0
    return status if signals is None else signals.status or status


if __name__ == "__main__":
    sys.exit(main())
