"""The log of a coordinator: one line for each event, and none where nothing happens."""

from __future__ import annotations

import logging
import re

import pytest

from paper_job import HEARTBEAT_MS, PaperJob

HOLE = "the state of 0 steps is not whole: no rank holds [11:22] of 'down.bias|exp_avg'"


@pytest.fixture
def lines(caplog):
    """What has been logged since the last call, whatever the step."""
    caplog.set_level(logging.INFO, logger="dynatrain.elastic")

    def since():
        said = [re.sub(r"step \d+", "step N", each.getMessage()) for each in caplog.records]
        caplog.clear()
        return said

    return since


# It was empty but for its first line, and nobody could tell in the morning what the night was.
def test_a_first_world_is_told_from_the_joins_on(monkeypatch, lines):
    job = PaperJob(monkeypatch, "dp=2")
    job.add()
    job.add()

    assert lines() == [
        "member 1 (host-1) has joined, 1 are there",
        "changes wait: 1 members are available, the smallest layout needs 2",
        "member 2 (host-2) has joined, 2 are there",
        "attempt 1: nothing -> dp=2",
        "world 1 trains: dp=2 from step N, by rank members 1 on host-1, 2 on host-2",
    ]


def test_a_job_at_rest_logs_nothing(monkeypatch, lines):
    job = PaperJob(monkeypatch, "dp=2")
    job.add(2)
    lines()
    job.go_on(100 * HEARTBEAT_MS)

    assert lines() == []


def test_a_loss_is_told_with_its_place_and_how_it_goes_on(monkeypatch, lines):
    job = PaperJob(monkeypatch, "dp=2", "dp=1")
    _, second = job.add(2)
    lines()
    job.kill(second)

    lost = "member 2 (rank 1 of dp=2, host-2) was lost: its connection was closed"
    assert lines() == [
        "member 2 (rank 1, host-2) is lost, 1 are there: its connection was closed",
        f"world 1 is halted: {lost}",
        "attempt 2: dp=2 of step N -> dp=1, without rank 1 (member 2, host-2); from 1 live states "
        "and 0 members with copies or checkpoints",
        "world 2 trains: dp=1 from step N, by rank members 1 on host-1",
    ]


def test_what_cannot_be_recovered_is_told_with_the_region(monkeypatch, lines):
    job = PaperJob(monkeypatch, "dp=2", "dp=1")
    first, second = job.add(2, has_checkpoints=True)
    first.hole = HOLE
    lines()
    job.kill(second)
    job.go_on(HEARTBEAT_MS)
    said = lines()

    assert f"attempt 2 was given up: member 1 cannot prepare: {HOLE}" in said
    assert said[-1].startswith("changes wait: none of the 1 reported versions can be put together")
    job.go_on(100 * HEARTBEAT_MS)
    assert lines() == []  # the reason is the same


def test_questions_of_operators_are_told(monkeypatch, lines):
    job = PaperJob(monkeypatch, "dp=2", "dp=1")
    job.add(2)
    lines()
    job.ask("resize", layout="dp=1")
    job.ask("resize", layout="")
    job.ask("resize", layout="dp=9")
    job.ask("drain", rank=1)

    assert lines() == [
        "dp=1 is wished for",
        "the wish is taken back",
        "refused: elastic: cannot wish for dp=9: it is none of the coordinator's layouts: dp=2; "
        "dp=1",
        "member 2 (rank 1, host-2) is to leave",
    ]
    job.go_on(10 * HEARTBEAT_MS)
    assert "member 2 (host-2) is released, 1 are there" in lines()


# Its past is told by the log of the one before.
def test_a_coordinator_that_goes_on_knows_who_is_there(monkeypatch, lines):
    job = PaperJob(monkeypatch, "dp=2", "dp=1")
    job.add(2)
    lines()
    job.restart()
    assert lines() == []
    job.kill(job.members[1])

    assert lines()[0] == "member 2 (rank 1, host-2) is lost, 1 are there: its connection was closed"
