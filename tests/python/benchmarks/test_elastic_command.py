"""The elastic benchmark without its processes: costs of before, and the trace in virtual time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from checkout import ROOT


def row(event, contender, **more):
    """A row of events.json, as far as it says something."""
    names = ("stop_seconds", "stop_seconds_min", "stop_seconds_first", "goes_on_seconds")
    names += ("start_seconds", "preparing_seconds", "prepare_inside_seconds", "save_seconds")
    names += ("steps_lost", "deadline_seconds", "plain_switch_seconds")
    place = {"event": event, "contender": contender, "source": "dp=2", "target": "dp=1"}
    ones = {"prepare_seconds": 1.0, "prepare_slowdown": 1.0}
    return {**dict.fromkeys(names, 0.5), **ones, **place, **more}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elastic")
    rows = [row(event, "dynatrain") for event in ("join", "leave", "kill")]
    rows += [row(event, "restart", stop_seconds=20.0) for event in ("join", "leave", "kill")]
    (folder / "costs.json").write_text(json.dumps(rows))
    command = (sys.executable, str(ROOT / "benchmarks/elastic.py"), "--hours=0")
    files = (f"--costs={folder / 'costs.json'}", f"--out={folder / 'out'}")
    done = subprocess.run(
        (*command, *files), check=False, timeout=100, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out/replay.json").read_text()), done.stdout, folder / "out"


# Whoever has measured once plays with rules and traces without hours of measuring again.
def test_costs_of_before_are_enough_for_virtual_time(done, reference_fields):
    rows, _, folder = done

    assert [(row["way"], row["contender"]) for row in rows] == [
        ("virtual", "dynatrain"),
        ("virtual", "restart"),
        ("virtual", "whole replicas"),
    ]
    for each in rows:
        assert each.keys() == reference_fields("Replay rows")
    assert (folder / "replay.png").stat().st_size > 10_000


# The tables are what most people see of it.
def test_both_tables_are_printed(done):
    _, printed, _ = done

    assert "0.50 (0.50; 0.50)" in printed
    assert "whole replicas" in printed
