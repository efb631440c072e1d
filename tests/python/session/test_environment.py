"""Values of the environment that cannot be used are refused in the library's words."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch.distributed as dist

import dynatrain
import training_jobs as jobs
from dynatrain import LayoutError, SwitchReport, _settings, arguments

WRONG_FOLDERS = {
    "home of nobody": "~nobody-of-this-name/traces",
    "too long a name": "a" * 300,
    "too long a path": "/tmp/" + "a/" * 3000,
    "NUL": "traces\0of a run",
    "lone surrogate": "/proc/\udcff",
    "below a file": "/dev/null/traces",
    "a file": "/dev/null",
    "no room for folders": "/proc/traces",
}


@pytest.mark.parametrize("words", WRONG_FOLDERS)
def test_trace_folder_that_cannot_be_had_is_refused_in_four_parts(words):
    with pytest.raises(LayoutError, match=r"DYNATRAIN_TRACE=(.|\n)*name a folder") as refused:
        _settings.read({"DYNATRAIN_TRACE": WRONG_FOLDERS[words]}).check_writable(0)

    first, expected, remains, advice = str(refused.value).splitlines()
    assert len(first) < 300
    assert first.split(": ")[-1] not in ("", "None")
    assert "expected a folder" in expected
    assert "nothing was started" in remains
    assert "leave the variable out" in advice
    first.encode()


# RuntimeError came out of init.
def test_home_of_nobody_is_refused_by_init(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("DYNATRAIN_TRACE", WRONG_FOLDERS["home of nobody"])
    with pytest.raises(LayoutError, match="DYNATRAIN_TRACE"):
        dynatrain.init(jobs.build, "dp=1")

    assert not dist.is_initialized()


@pytest.mark.parametrize("level", ["verbose", "10", "INFO ", "\udcff", "D" * 5000])
def test_level_that_is_none_is_refused_in_four_parts(level):
    with pytest.raises(LayoutError, match="DYNATRAIN_LOG=") as refused:
        _settings.read({"DYNATRAIN_LOG": level})

    assert len(str(refused.value).splitlines()) == 4
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("size", ["", "-1", "two", "9" * 5000, "²"])
def test_launcher_s_number_of_ranks_that_is_none_is_passed_over(monkeypatch, size):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", size)

    assert arguments.default_threads() >= 1


# A script may work in a folder of each run; traces stay together.
def test_trace_folder_stands_where_the_script_began(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder = _settings.read({"DYNATRAIN_TRACE": "traces"}).trace_folder

    assert folder == tmp_path / "traces"


def test_folder_that_vanishes_costs_the_trace_alone(start, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("DYNATRAIN_TRACE", str(tmp_path / "traces"))
    session = start()
    shutil.rmtree(tmp_path / "traces")

    with caplog.at_level(logging.WARNING, logger="dynatrain.session"):
        assert session.switch("dp=1").epoch == 1
    assert "the trace of a switch could not be written" in caplog.text


# The switch is done on all ranks; what rank 0 raised then would end it alone.
@pytest.mark.parametrize(
    "error", [MemoryError(), ValueError("NUL"), TypeError("no JSON")], ids=repr
)
def test_trace_that_fails_in_any_way_is_a_warning(start, monkeypatch, tmp_path, caplog, error):
    def fail(self, path):
        raise error

    monkeypatch.setenv("DYNATRAIN_TRACE", str(tmp_path))
    session = start()
    monkeypatch.setattr(SwitchReport, "write_trace", fail)

    with caplog.at_level(logging.WARNING, logger="dynatrain.session"):
        assert session.switch("dp=1").epoch == 1
    assert str(tmp_path) in caplog.text
