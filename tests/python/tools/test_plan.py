"""`dynatrain plan`: planning a switch before anybody buys the machines."""

from __future__ import annotations

import json

import pytest

import dynatrain
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


# What is not typed as a count of something must say so in the command's own words, and end.
ODD = {
    "no layers": (["dp=2", "tp=2", "--layers=0"], "--layers=0"),
    "negative layers": (["dp=2", "tp=2", "--layers=-1"], "--layers=-1"),
    "endless layers": (["dp=2", "tp=2", "--layers=1000000000000"], "--layers=1000000000000"),
    "no width": (["dp=2", "tp=2", "--hidden=0"], "--hidden=0"),
    "negative width": (["dp=2", "tp=2", "--hidden=-4"], "--hidden=-4"),
    "width of keys": (["dp=2", "tp=2", "--kv-hidden=0"], "--kv-hidden=0"),
    "beyond 64 bits": (["dp=2", "tp=2", f"--vocab={10**23}"], f"--vocab={10**23}"),
    "too large a tensor": (["dp=2", "tp=2", f"--hidden={2**39}"], "shape="),
    "endless stages": (["dp=2", "tp=2", "--layers=1", f"--hidden={10**8}"], "stages"),
    "endless staging": (["dp=2", "tp=2", f"--staging-mib={10**20}"], f"--staging-mib={10**20}"),
    "no staging": (["dp=2", "tp=2", "--staging-mib=0"], "--staging-mib=0"),
    "no link": (["dp=2", "tp=2", "--link-gb-per-second=0"], "--link-gb-per-second=0"),
    "no number": (["dp=2", "tp=2", "--link-gb-per-second=nan"], "--link-gb-per-second=nan"),
    "no node": (["dp=2", "tp=2", "--ranks-per-node=0"], "--ranks-per-node=0"),
    "endless ranks": (["dp=1073741824", "tp=2"], "1073741824 ranks"),
    "too few layers": (["dp=2", "pp=4", "--layers=3"], "3 layers over 4 stages"),
    "no ranks": (["dp=0", "tp=2"], "dp_shard=0"),
    "a file": (["model.json", "tp=2"], "model.json"),
    "bad JSON": (["{", "tp=2"], "'{'"),
    "an axis twice": (["dp=2,dp=3", "tp=2"], "twice"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_cannot_be_planned_is_refused_in_four_parts(case, capsys: pytest.CaptureFixture[str]):
    arguments, named = ODD[case]
    assert cli.main(["plan", *SMALL, *arguments]) == 1

    printed = capsys.readouterr().err
    error = printed[printed.index("Error: ") :].splitlines()
    assert any(named in line for line in error[:2])
    assert len(error) >= 4
    assert "nothing" in printed


# A thousand ranks take a while; silence looks like a command that hangs.
def test_a_plan_of_many_ranks_says_that_it_takes_its_time(monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dynatrain, "plan", interrupted)
    assert cli.main(["plan", "dp=1024", "tp=2", *SMALL]) == 130

    said = capsys.readouterr().err
    assert said == (
        "planning 1024 ranks and 2 layers, which may take minutes\n"
        "interrupted; nothing was planned\n"
    )


# Whoever divides the bytes by four gets three models: the moments count, and only the code said so.
def test_help_says_what_is_counted(capsys):
    with pytest.raises(SystemExit):
        cli.main(["plan", "--help"])

    assert "the two moments that AdamW keeps" in " ".join(capsys.readouterr().out.split())
