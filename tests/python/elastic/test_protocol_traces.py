"""Traces of the protocol that cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynatrain import LayoutError
from dynatrain.elastic import trace

BEGINS = {"id": 7, "place": ["a host", "one"], "timeout_ms": 30_000, "now_ms": 0}


# Whoever asks for a trace wants to know before the job has run that there will be none.
def test_a_trace_that_cannot_be_made_is_refused_at_the_beginning(tmp_path):
    with pytest.raises(LayoutError, match="no folder"):
        trace.traced(tmp_path / "no folder" / "trace", "worker", **BEGINS)


# A disk that is full later on must not end a job that trains, nor fill its memory.
def test_a_trace_that_cannot_be_written_any_more_ends_alone(tmp_path, caplog):
    path = tmp_path / "trace"
    machine, made = trace.traced(path, "worker", **BEGINS)
    path.unlink()
    path.symlink_to(Path("/dev/full"))
    machine.tick(10_000)
    made.write()
    machine.tick(20_000)
    made.write()

    assert "the trace ends" in caplog.text
    assert machine.take_trace() == ""


# A line that is left out at the end is a difference like any other.
def test_an_action_that_the_trace_lacks_is_told(tmp_path):
    path = tmp_path / "trace"
    machine, made = trace.traced(path, "worker", **BEGINS)
    ((_, join),) = machine.tick(10_000)
    made.write()
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))

    assert trace.replay(path) == trace.Difference(3, "", f"1 tell {join.removeprefix('1 ')}")


# Of a file that is something else, Python's own errors told nothing of what to do.
@pytest.mark.parametrize(
    "text",
    [
        "",
        "no trace\n",
        "{\n",
        "{}\n",
        '{"machine": "worker"}\n',
        '{"machine": "another", "begins": {}}\n',
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path, text):
    path = tmp_path / "file"
    path.write_text(text)

    with pytest.raises(LayoutError, match="cannot read line 1 of the trace"):
        trace.replay(path)


# The machine has moved by then: without what it wants done, its job stands still.
def test_an_event_that_no_line_holds_ends_the_trace_alone(tmp_path):
    silent, _ = trace.traced(None, "worker", **BEGINS)
    machine, made = trace.traced(tmp_path / "trace", "worker", **BEGINS)
    done = [each.tick(10_000) for each in (silent, machine)]
    endless = "why " * 100_000
    for each in (silent, machine):
        each.prepare_broke(20_000, 3, endless, is_uncovered=False, is_refusal=False)
        done.append(each.tick(90_000))
    made.write()

    assert done[0] == done[1]
    assert done[2] == done[3]
    assert done[2]
    assert "90000" not in (tmp_path / "trace").read_text()
    assert trace.replay(tmp_path / "trace") is None
