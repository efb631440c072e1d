"""The first line of `dynatrain coordinator` is what a new user copies into a script."""

from __future__ import annotations

import argparse
import inspect
import re

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
