"""The script that makes environments empties a folder: never one that is somebody else's."""

from __future__ import annotations

import subprocess

from checkout import ROOT


def make_venv(folder, lists):
    command = (ROOT / "scripts/make_venv", folder, lists)
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)


# `DYNATRAIN_VENV=~/my-environment make test` emptied it.
def test_an_environment_that_it_has_not_made_is_refused_and_stays(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "pyvenv.cfg").write_text("home = /usr/bin\n")
    lists = tmp_path / "lists.txt"
    lists.write_text("")

    done = make_venv(theirs, lists)

    assert done.returncode == 1
    assert f"{theirs} was not made by scripts/make_venv; nothing was set up" in done.stderr
    assert [path.name for path in theirs.iterdir()] == ["pyvenv.cfg"]


# A checkout's lists are as young as the checkout: by their age, each clone would make it again.
def test_one_that_was_made_from_the_same_lists_stays(tmp_path):
    lists = tmp_path / "lists.txt"
    lists.write_text("")
    done = subprocess.run("sha256sum", check=True, input="", capture_output=True, text=True)
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / ".locked").write_text(done.stdout)
    (ours / "pyvenv.cfg").write_text("")
    before = (ours / ".locked").stat().st_mtime_ns

    done = make_venv(ours, lists)

    assert (done.returncode, done.stdout) == (0, "")
    assert (ours / "pyvenv.cfg").exists()
    assert (ours / ".locked").stat().st_mtime_ns > before
