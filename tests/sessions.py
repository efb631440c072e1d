"""Sessions of the small job as tests of several ranks start them, and how a call to one ended."""

from __future__ import annotations

import pytest

import dynatrain
import training_jobs as jobs
from dynatrain import LayoutError

#: Ten times what the pool gives a run: "at once" means that nobody waits for this, and a rank that
#: does fails the test with its stack. No test measures how long a call took.
TIMEOUT_S = 600


def outcome(call):
    """Kind and text of the error that `call` ends with."""
    try:
        call()
    except dynatrain.Error as error:
        return type(error).__name__, str(error)
    return "done", ""


def refused(call, kind=LayoutError):
    """The text of the error that `call` ends with."""
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def start(layout="dp=4", build=jobs.build, **options):
    settings = {"initialize": jobs.initialize, "timeout_s": TIMEOUT_S, **options}
    return dynatrain.init(build, layout, **settings)


def works(layout="dp=4"):
    """Whether the ranks can still start a session and switch it."""
    return start(layout).switch(layout).epoch == 1
