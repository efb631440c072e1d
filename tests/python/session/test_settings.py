"""The two environment variables: what they accept, what they turn on, and what wins over them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import pytest
import torch.distributed as dist

import dynatrain
import training_jobs as jobs
from dynatrain import LayoutError, SwitchReport, _native, _settings

PACKAGE = logging.getLogger("dynatrain")


@pytest.fixture(autouse=True)
def logger_as_it_was():
    level, handlers = PACKAGE.level, list(PACKAGE.handlers)
    yield
    _native.set_log_sink(None)
    PACKAGE.setLevel(level)
    PACKAGE.handlers = handlers


@pytest.fixture
def session(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    made = dynatrain.init(jobs.build, "dp=1", initialize=jobs.initialize, timeout_s=20)
    yield made
    made.close()
    dist.destroy_process_group()


# A variable that is set and empty is how a launcher says "not set".
def test_absent_and_empty_variables_ask_for_nothing():
    nothing = _settings.Settings()

    assert _settings.read({}) == nothing
    assert _settings.read({"DYNATRAIN_LOG": "", "DYNATRAIN_TRACE": ""}) == nothing


def test_level_is_read_in_any_case(tmp_path):
    assert _settings.read({"DYNATRAIN_LOG": "info"}).log_level == logging.INFO
    assert _settings.read({"DYNATRAIN_LOG": "DEBUG"}).log_level == logging.DEBUG
    folder = tmp_path / "a" / "b"
    assert _settings.read({"DYNATRAIN_TRACE": str(folder)}).trace_folder == folder
    assert folder.is_dir()


# A misspelt level that counted as silence would be found after the run that was to be watched.
def test_value_that_does_not_parse_is_an_error(tmp_path):
    with pytest.raises(LayoutError, match=r"DYNATRAIN_LOG='verbose'(.|\n)*DEBUG, INFO, WARNING"):
        _settings.read({"DYNATRAIN_LOG": "verbose"})
    (tmp_path / "file").touch()
    with pytest.raises(LayoutError, match=r"DYNATRAIN_TRACE=(.|\n)*nothing was started"):
        _settings.read({"DYNATRAIN_TRACE": str(tmp_path / "file")})


# The core has no logger of its own: without the sink its lines would be lost.
def test_lines_of_the_core_reach_the_logger_of_their_room(session, caplog):
    with caplog.at_level(logging.DEBUG, logger="dynatrain"):
        _settings.Settings().apply(session.on_switch, 0)
        session.switch("dp=1")

    lines = [r for r in caplog.records if r.name == "dynatrain.execution"]
    assert [r.levelno for r in lines] == [logging.DEBUG]
    assert "rank 0: stage 1 of 1 landed" in lines[0].message


# One line says what a switch was; the rest is for whoever asks.
def test_a_switch_is_one_line_at_level_info(session, caplog):
    with caplog.at_level(logging.INFO, logger="dynatrain"):
        _settings.Settings(log_level=logging.INFO).apply(session.on_switch, 0)
        report = session.switch("dp=1")

    lines = [r for r in caplog.records if r.name.startswith("dynatrain")]
    assert [(r.name, r.levelno) for r in lines] == [("dynatrain.session", logging.INFO)]
    assert str(report).split(": stop")[0] in lines[0].message


# What the script says in code stands over what was left in the environment.
def test_level_that_the_script_has_set_wins():
    PACKAGE.setLevel(logging.ERROR)

    _settings.Settings(log_level=logging.DEBUG).apply(lambda callback: None, 0)

    assert PACKAGE.level == logging.ERROR


def lines_on_stderr():
    """What a process logs to its standard error, before its variable is set and after that."""
    code = (
        "import logging, os, sys\n"
        "from dynatrain import _settings\n"
        "def log():\n"
        "    _settings.read().apply(lambda callback: None, 0)\n"
        "    _settings.read().apply(lambda callback: None, 0)\n"
        "    logging.getLogger('dynatrain.session').info('a switch')\n"
        "    logging.getLogger('dynatrain.execution').warning('a surprise')\n"
        "log()\n"
        "print('--', file=sys.stderr)\n"
        "os.environ['DYNATRAIN_LOG'] = 'INFO'\n"
        "log()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("DYNATRAIN_")},
        timeout=100,
    )
    lines = [line.split(" dynatrain.")[-1] for line in done.stderr.splitlines()]
    return lines[: lines.index("--")], lines[lines.index("--") + 1 :]


# A library that nobody asked prints nothing but what is amiss, as Python's logging does; one that
# was asked needs no set-up of logging.
def test_warnings_alone_until_the_variable_asks_for_lines():
    unasked, asked = lines_on_stderr()

    assert unasked == ["a surprise"]
    assert asked == ["session INFO a switch", "execution WARNING a surprise"]


# The file is for other programs: they rely on the fields of the page.
def test_each_switch_leaves_a_trace_with_the_fields_of_the_reference(
    session, tmp_path, reference_fields
):
    _settings.Settings(trace_folder=tmp_path).apply(session.on_switch, 0)
    session.switch("dp=1")
    session.switch("dp=1")

    assert sorted(p.name for p in tmp_path.iterdir()) == ["switch-0001.json", "switch-0002.json"]
    trace = json.loads((tmp_path / "switch-0001.json").read_text())
    assert trace.keys() == reference_fields("Trace")
    assert trace["schema_version"] == 1
    assert trace["otherData"].keys() == reference_fields("Switch report") - {"timeline"}
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert {"meet", "build", "plan", "commit"} <= {span["name"] for span in spans}
    assert all(span["args"].keys() == {"stage", "size_bytes", "stream"} for span in spans)


# All ranks have the same report; one file is enough, and the ranks may share the folder.
def test_only_rank_0_writes_traces(tmp_path):
    callbacks = []
    for rank in range(3):
        _settings.Settings(trace_folder=tmp_path).apply(callbacks.append, rank)

    assert len(callbacks) == 1


# The switch has happened: a full disk must not end the run.
def test_trace_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    callbacks = []
    folder = tmp_path / "traces"
    _settings.Settings(trace_folder=folder).apply(callbacks.append, 0)

    callbacks[0](SwitchReport("dp=1", "dp=1", 1, 0, prepared=False))

    assert str(folder) in caplog.text
