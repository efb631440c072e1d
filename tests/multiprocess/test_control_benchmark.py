"""The smallest case of the control benchmark: it runs, and its JSON is what the reference lists."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from checkout import ROOT

SIZES = (3, 5)
WORKS = ("meeting", "messages", "connect", "gather", "agree", "publish", "switch")


@pytest.fixture(scope="module")
def rows():
    command = (sys.executable, str(ROOT / "benchmarks/control.py"), "--json", "--runs=2")
    smallest = ("--ranks", *map(str, SIZES), "--processes=2")
    done = subprocess.run(
        (*command, *smallest), check=False, timeout=100, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# A crowd of more ranks than processes is what makes exchanges of many ranks possible at all.
def test_all_works_are_timed_of_every_size(rows):
    timed = [(row["work"], row["num_ranks"], row["num_processes"]) for row in rows]

    assert timed == [(work, size, 2) for size in SIZES for work in WORKS]


# Whoever plots the rows relies on the page that lists their fields.
def test_rows_have_the_fields_of_the_reference(rows, reference_fields):
    for row in rows:
        assert row.keys() == reference_fields("Control rows")
        assert row["schema_version"] == 1


# The page of the room says so: it must not grow with the number of ranks.
def test_a_meeting_takes_four_messages_of_a_rank_and_a_few_of_all(rows):
    for row in rows:
        if row["work"] == "meeting":
            assert 0 <= row["store_requests"] - 4 * row["num_ranks"] <= 6
