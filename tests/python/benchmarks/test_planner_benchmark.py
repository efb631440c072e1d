"""`benchmarks/planner.py`: its rows."""

from __future__ import annotations

import json
import subprocess
import sys

from checkout import ROOT


# Scripts read these rows by the names of the reference.
def test_a_row_has_the_fields_of_the_reference(reference_fields):
    program = str(ROOT / "benchmarks/planner.py")
    command = (sys.executable, program, "--json", "--case=llama3-70b", "--runs=2", "--verify=0")
    done = subprocess.run(command, check=False, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)

    assert set(row) == reference_fields("Planner rows")
    assert row["world_size"] == 1024
    assert min(row["plan_cold_seconds"], row["plan_cached_seconds"]) > 0
    assert row["verify_seconds"] is None
