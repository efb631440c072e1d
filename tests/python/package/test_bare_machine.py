"""The room of `make test-bare`: as bare as a fresh machine, and gone when its command has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from checkout import ROOT

CANNOT_RUN = 77
SCRIPT = [sys.executable, str(ROOT / "scripts/bare.py")]


def run(folder: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Calls the script with `folder` for its rooms; skips where there can be none."""
    done = subprocess.run(
        [*SCRIPT, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(folder), "PATH": path or os.environ["PATH"]},
        timeout=100,
    )
    if done.returncode == CANNOT_RUN and path is None:
        pytest.skip(done.stderr)
    return done


# A check that finds a developer's CMake or headers says nothing about a fresh machine.
def test_room_has_a_compiler_and_none_of_a_developers_tools(tmp_path: Path):
    looks = (
        "for p in g++ make git python3 cmake ninja ccache nvcc; do command -v $p; done; ls Makefile"
    )
    done = run(tmp_path, "--", "bash", "-c", looks)

    assert [Path(line).name for line in done.stdout.split()] == [
        "g++", "make", "git", "python3", "Makefile",
    ]  # fmt: skip


# The commands install packages; the developer's machine must not get them.
def test_what_is_written_in_the_room_stays_there(tmp_path: Path):
    marker = Path("/usr/local/dynatrain-bare-marker")
    done = run(tmp_path, "--", "bash", "-c", f"touch {marker} && rm Makefile && exit 7")

    assert done.returncode == 7, done.stderr
    assert not marker.exists()
    assert (ROOT / "Makefile").exists()
    assert list(tmp_path.iterdir()) == []


# A room holds gigabytes, and its processes would go on computing unseen.
@pytest.mark.long
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, None], ids=str)
def test_nothing_is_left_of_a_room_that_was_ended(tmp_path: Path, ending: signal.Signals | None):
    run(tmp_path, "--", "true")  # skips where there can be no room
    command = f"sleep 1000 & echo $$ > {tmp_path}/begun; sleep 1000"
    process = subprocess.Popen(
        [*SCRIPT, "--deadline", "1000" if ending else "30", "--", "bash", "-c", command],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "begun").exists() and process.poll() is None:
        time.sleep(0.05)
    for _ in range(3 if ending else 0):
        process.send_signal(ending)
        time.sleep(0.1)  # as somebody does who sees no prompt
    _, said = process.communicate(timeout=60)

    assert process.returncode == (128 + ending if ending else 1)
    assert (f"ended by {ending.name}" if ending else "deadline of 30 s") in said
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]
    with_folder = ["pgrep", "--full", f"--inside {tmp_path}"]
    assert subprocess.run(with_folder, check=False, capture_output=True).stdout == b""


INTERRUPTED = """
import os, signal
removed = shutil.rmtree
def remove(folder):
    os.kill(os.getpid(), signal.{name})
    removed(folder)
shutil.rmtree = remove
"""
VANISHING = """
pathlib.Path({folder!r}, "vanishing").touch()
glob = pathlib.Path.glob
def find(folder, pattern):
    yield from glob(folder, pattern)
    for path in glob(pathlib.Path({folder!r}), "vanishing") if "scratch" in pattern else ():
        path.unlink()
        yield path
pathlib.Path.glob = find
"""


def run_disturbed(folder: Path, disturbed: str) -> subprocess.CompletedProcess[str]:
    """Calls the script where its removal is disturbed; the same where there can be no room."""
    script = [SCRIPT[1], "--skip-where-impossible", "--", "true"]
    lines = [
        "import pathlib, runpy, shutil, sys",
        disturbed,
        f"sys.argv = {script!r}",
        'runpy.run_path(sys.argv[0], run_name="__main__")',
    ]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
        timeout=100,
    )


# Whoever sees no prompt after Ctrl-C presses it again; what stopped half-way is gigabytes. A caller
# that sees status 0 goes on as if nobody had pressed anything.
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_signal_during_the_removal_does_not_stop_it_and_is_told(
    tmp_path: Path, ending: signal.Signals
):
    done = run_disturbed(tmp_path, INTERRUPTED.format(name=ending.name))

    assert "which no signal stops" in done.stderr
    assert done.returncode == 128 + ending
    assert list(tmp_path.iterdir()) == []


# A process that was killed goes on for a moment, and removes what the removal has just seen.
def test_file_that_vanishes_during_the_removal_does_not_stop_it(tmp_path: Path):
    done = run_disturbed(tmp_path, VANISHING.format(folder=str(tmp_path)))

    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


# A check that could not run must not look like one that has passed, unless somebody asked for that.
@pytest.mark.parametrize(
    ("options", "status"), [([], CANNOT_RUN), (["--skip-where-impossible"], 0)]
)
def test_machine_that_cannot_have_a_room_is_told_why(
    tmp_path: Path, options: list[str], status: int
):
    done = run(tmp_path, *options, "--", "true", path=str(tmp_path))

    assert done.returncode == status
    assert "cannot run here: there is no setpriv" in done.stderr
