"""`dynatrain plan`: planning a switch before anybody buys the machines."""

from __future__ import annotations

import json

import pytest

from dynatrain.tools import cli

SMALL = ["--layers=2", "--hidden=64", "--ffn=128", "--vocab=256", "--kv-hidden=32"]


# Scripts read the JSON; what is moved must be what has to be moved (law 3).
def test_json_plan_moves_the_lower_bound(capsys: pytest.CaptureFixture[str]):
    status = cli.main(["plan", "dp=4", "dp=2,tp=2", "--json", *SMALL])
    report = json.loads(capsys.readouterr().out)

    assert status == 0
    assert report["schema_version"] == 1
    assert [report["source"], report["target"]] == ["dp=4", "dp=2,tp=2"]
    assert report["bytes_moved"] == report["lower_bound_bytes"] > 0
    assert [rank["rank"] for rank in report["ranks"]] == [0, 1, 2, 3]


# The table is what a person reads first: one row per rank, of the larger world.
def test_table_has_a_row_for_every_rank_of_the_larger_world(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["plan", "dp=2", "dp=3", *SMALL]) == 0
    printed = capsys.readouterr().out

    assert "dp=2 → dp=3" in printed
    assert all(f"│    {rank} │" in printed for rank in range(3))


# A typo in a layout is the user's mistake: the library's message, no traceback.
def test_wrong_layout_is_an_error_without_traceback(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["plan", "dp=4", "tq=2", *SMALL]) == 1

    printed = capsys.readouterr().err
    assert printed.startswith("LayoutError: ")
    assert "tq" in printed
