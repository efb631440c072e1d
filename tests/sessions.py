"""Sessions of the small job as tests of several ranks start them, and how a call to one ended."""

from __future__ import annotations

import time

import pytest

import dynatrain
import training_jobs as jobs
from dynatrain import LayoutError

TIMEOUT_S = 8


def outcome(call):
    """Kind and text of the error that `call` ends with, and whether it came before the deadline."""
    begin = time.monotonic()
    try:
        call()
    except dynatrain.Error as error:
        return type(error).__name__, str(error), time.monotonic() - begin < TIMEOUT_S / 2
    return "done", "", True


def refused(call, kind=LayoutError):
    """The text of the error that `call` ends with, and whether it came before the deadline."""
    begin = time.monotonic()
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value), time.monotonic() - begin < TIMEOUT_S / 2


def start(layout="dp=4", build=jobs.build, **options):
    settings = {"initialize": jobs.initialize, "timeout_s": TIMEOUT_S, **options}
    return dynatrain.init(build, layout, **settings)


def works(layout="dp=4"):
    """Whether the ranks can still start a session and switch it."""
    return start(layout).switch(layout).epoch == 1
