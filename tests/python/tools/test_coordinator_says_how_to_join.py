"""`dynatrain coordinator`: its first line, which new users copy into a script, and its end."""

from __future__ import annotations

import argparse
import inspect
import re
import signal
import subprocess
import sys
import time

from dynatrain.tools.coordinate import _say


# It named dynatrain.join(build, ...), which is a module.
def test_what_the_coordinator_prints_can_be_called(capsys):
    options = argparse.Namespace(
        listen="10.0.0.1:0", json=False, layout=["dp=2"], secret_file="a.secret"
    )

    _say(options, 7070)

    imported, called = re.findall("`([^`]*)`", capsys.readouterr().out)
    names = {}
    exec(imported, names)
    given = eval(called, {"join": lambda *args, **named: (args, named), "build": None})
    bound = inspect.signature(names["join"]).bind(*given[0], **given[1])
    assert bound.arguments == {
        "build": None,
        "coordinator": "10.0.0.1:7070",
        "secret_file": "a.secret",
    }


# Who stops it by `timeout` or a shell sends the signal twice, and was told that it had failed.
def test_two_signals_end_it_as_one_does(tmp_path):
    files = (f"--ledger={tmp_path / 'ledger'}", f"--secret-file={tmp_path / 'secret'}")
    command = (sys.executable, "-m", "dynatrain", "coordinator", "--layout=dp=1", *files)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, **streams) as coordinator:
        assert any("in office" in line for line in coordinator.stdout)
        for _ in range(2):
            coordinator.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        assert coordinator.wait(20) == 0
