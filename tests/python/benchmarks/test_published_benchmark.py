"""`benchmarks/published.py`: its rows."""

from __future__ import annotations

import json
import subprocess
import sys

from checkout import ROOT


# What others have measured stands beside what we only predict: the rows must say which is which.
def test_a_row_has_the_fields_of_the_reference(reference_fields):
    program = str(ROOT / "benchmarks/published.py")
    command = (sys.executable, program, "--json", "--system=DynaTrain")
    done = subprocess.run(command, check=False, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)

    assert len(rows) == 4
    for row in rows:
        assert set(row) == reference_fields("Published rows")
        assert 0 < row["bound_seconds"] <= row["predicted_seconds"]
