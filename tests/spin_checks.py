"""Runs of the model checker spin over the model of the stage protocol."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from checkout import ROOT

MODEL = ROOT / "tests/spin/stage_protocol.pml"
BUILD = ROOT / "build/release"
#: Steps of the longest run; spin says where it was too few.
MAX_DEPTH = 10_000
MAX_MEGABYTES = 4000
MAX_SECONDS = 300


class Checked(NamedTuple):
    """What spin has found.

    Attributes:
        fault: the first one, in spin's words; empty where there is none.
        states: that were reached, all there are where there is no fault.
    """

    fault: str
    states: int


def step_tables(world: str, num_stages: int) -> str:
    """What the real schedules of a small world say, as the model includes it."""
    program, library = BUILD / "tests/step_tables", BUILD / "libdynatrain_core.a"
    if not program.exists():
        pytest.skip("step_tables is not built (make build-tests)")
    if library.exists() and library.stat().st_mtime > program.stat().st_mtime:
        pytest.skip("step_tables is older than the library (make build-tests)")
    return ran([program, world, str(num_stages)], BUILD)


def checked(folder: Path, tables: str, *variants: str, optimize: str = "-O1") -> Checked:
    """Follows every interleaving of the model with these tables, up to the first fault."""
    for needed in ("spin", "cc"):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed (Debian: spin, gcc)")
    (folder / "step_tables.pml").write_text(tables)
    shutil.copy(MODEL, folder)
    ran(["spin", "-a", *(f"-D{each}" for each in variants), MODEL.name], folder)
    ran(["cc", "-w", optimize, "-DSAFETY", f"-DMEMLIM={MAX_MEGABYTES}", "-opan", "pan.c"], folder)
    told = ran(["./pan", "-w22", f"-m{MAX_DEPTH}"], folder, MAX_SECONDS)
    states = re.search(r"(\d+) states, stored", told)
    fault = re.search(r"^pan:\d+: (.*)", told, re.MULTILINE)
    is_complete = "errors: 0" in told and "not completed" not in told and "too small" not in told
    assert states is not None, told
    assert fault is not None or is_complete, told
    return Checked(fault.group(1) if fault else "", int(states.group(1)))


def ran(command: list[str | Path], folder: Path, seconds: int = 60) -> str:
    """What a program says that ends well."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
