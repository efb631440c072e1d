"""What `dynatrain status`, `resize` and `drain` print of a job."""

from __future__ import annotations

import pytest

from dynatrain.tools.operate import show
from paper_job import PaperJob


@pytest.fixture
def job(monkeypatch):
    made = PaperJob(monkeypatch, "dp=3", "dp=2")
    made.add(2)
    return made


def shown(capsys, status):
    show(status)
    return " ".join(capsys.readouterr().out.split())


# "At most 0 s" stood there for the half second in which membership has to be quiet.
def test_a_wish_is_shown_with_what_follows_and_how_long_that_waits(job, capsys):
    said = shown(capsys, job.ask("resize", layout="dp=3"))

    assert "at most 0.5 s" in said
    assert "dp=3 is wished for" in said
    assert "dp=3 needs 3 members, 2 are there: the wish is kept" in said


def test_a_status_without_a_wish_names_none(job, capsys):
    said = shown(capsys, job.ask("status"))

    assert "wish" not in said
    assert said.endswith("steady: the present world is the one that is wanted")
