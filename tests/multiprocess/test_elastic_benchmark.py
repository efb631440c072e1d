"""The elastic benchmark's smallest case: it runs, and its files are what the reference lists."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from checkout import ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]  # some 40 processes start
EVENTS = {"join", "leave", "kill", "resize"}
#: Two nodes, a third that comes and one that goes; the last line is of the virtual part alone.
TRACE = ["0,add,a", "0,add,b", "60000,add,c", "600000,remove,a"]
TRACE += [f"7200000,add,{node}" for node in "defg"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elastic")
    (folder / "trace.csv").write_text("\n".join(TRACE) + "\n")
    command = (sys.executable, str(ROOT / "benchmarks/elastic.py"), "--json", "--runs=1")
    files = (f"--out={folder / 'out'}", f"--trace={folder / 'trace.csv'}")
    smallest = ("--apart=4", "--every=3", "--hours=0.25", "--compress=10", "--pace-s=0.05")
    done = subprocess.run(
        (*command, *files, *smallest), check=False, timeout=1400, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    replayed = json.loads((folder / "out/replay.json").read_text())
    return json.loads(done.stdout), replayed, folder / "out"


# A number without its neighbour says nothing: each event is timed with both.
def test_all_events_are_timed_with_all_contenders(done):
    rows, _, _ = done

    timed = {(row["event"], row["contender"]) for row in rows}
    assert timed == {(event, each) for event in EVENTS for each in ("dynatrain", "restart")}


# Whoever plots the rows relies on the page that lists their fields.
def test_rows_have_the_fields_of_the_reference(done, reference_fields):
    rows, replayed, folder = done

    for row in rows:
        assert row.keys() == reference_fields("Elastic rows")
    for row in replayed:
        assert row.keys() == reference_fields("Replay rows")
    assert json.loads((folder / "events.json").read_text()) == rows


# Nobody saved anything before the death.
def test_dynatrain_does_no_step_again_for_a_death(done):
    rows, replayed, _ = done

    lost = {row["event"]: row["steps_lost"] for row in rows if row["contender"] == "dynatrain"}
    assert lost == dict.fromkeys(EVENTS, 0)
    for row in replayed:
        if (row["way"], row["contender"]) == ("real", "dynatrain"):
            assert row["steps_lost"] == 0


# The trace is met for real and in virtual time, and all of them reach the goal.
def test_the_trace_is_replayed_both_ways(done):
    _, replayed, folder = done

    ways = [(row["way"], row["contender"]) for row in replayed]
    assert ways == [
        ("real", "dynatrain"),
        ("real", "restart"),
        ("virtual", "dynatrain"),
        ("virtual", "restart"),
        ("virtual", "whole replicas"),
    ]
    for row in replayed:
        assert 0 < row["ettr"] <= 1
        assert row["num_changes"] >= 2
        assert row["seconds_to_goal"] <= row["seconds"] + 1e-6
    assert (folder / "replay.png").stat().st_size > 10_000
