"""What the system refused is told from other errors, with the limit that was met."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from datetime import timedelta

import pytest

from dynatrain import DeviceError, TransportError
from dynatrain._errors import of_family
from dynatrain._limits import check_room_for_groups, refusal
from dynatrain.generation.lanes import unconnected

GLOO = "[enforce fail at /pytorch/gloo/transport/tcp/loop.cc:48] rv != -1. -1 vs -1. pipe: "


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (RuntimeError(GLOO + os.strerror(errno.EMFILE)), "descriptor (too many open files)"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "descriptor (too many open files)"),
        (OSError(errno.ENFILE, os.strerror(errno.ENFILE)), "open files in the system"),
        (RuntimeError(GLOO + os.strerror(errno.ENFILE)), "open files in the system"),
        (RuntimeError(os.strerror(errno.EAGAIN)), "a thread"),
        (RuntimeError("can't start new thread"), "a thread"),
    ],
    ids=repr,
)
def test_what_the_system_refused_is_a_device_error_of_every_phase(error, what):
    made = of_family(error, "making the world")

    assert type(made) is DeviceError
    assert what in str(made)
    assert "enforce fail" not in str(made)
    assert made.__cause__ is error


# Reading a pipe that holds nothing says EAGAIN as well.
@pytest.mark.parametrize(
    "error",
    [
        BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
        OSError(errno.ENOENT, "none"),
        RuntimeError("connection refused"),
        ValueError("too many open files"),
    ],
    ids=repr,
)
def test_other_errors_are_no_refusal_of_the_system(error):
    assert refusal(error) is None


def test_the_limit_on_descriptors_is_told_as_it_stands():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = refusal(OSError(errno.EMFILE, "none left"))

    assert told is not None
    assert f"may have {soft} open (ulimit -n; hard limit {hard})" in told[1]


# In a process of its own: what threads of other tests close meanwhile would be there to be taken.
LACKING = """
import errno, os, resource
from dynatrain._limits import check_room_for_groups, room_for_groups

highest = max(int(each) for each in os.listdir("/proc/self/fd"))
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 32, hard))
held = []
try:
    while True:
        held.append(os.dup(1))
except OSError:
    pass
for _ in range(11):
    os.close(held.pop())
check_room_for_groups(2)
try:
    check_room_for_groups(4)
except OSError as error:
    assert error.errno == errno.EMFILE, error
    assert "connecting takes up to 12 more" in str(error), error
else:
    raise AssertionError("they were not missed")
check_room_for_groups(2)  # what it has looked for is given back
with room_for_groups(2):  # another thread makes a group, and has opened nothing of it yet
    try:
        check_room_for_groups(2)
    except OSError as error:
        assert "10 more, beside 10 for others under way" in str(error), error
    else:
        raise AssertionError("both were promised the same")
check_room_for_groups(2)
check_room_for_groups(1)  # it needs none
"""


def test_descriptors_that_are_lacking_are_found_before_they_are_taken():
    found = subprocess.run(
        [sys.executable, "-c", LACKING], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stderr


# A group of one rank connects nothing.
def test_a_job_of_one_rank_needs_no_descriptors():
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, former[1]))
    try:
        check_room_for_groups(1, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, former)


# It was torch's text, which names a key of the store and no cause.
def test_a_rank_that_did_not_come_is_told_without_keys_of_the_store():
    raw = RuntimeError("wait timeout after 6000ms, keys: /run1/0//dynatrain/1/start/control/0/0/1")
    made = unconnected(raw, 4, timedelta(seconds=6))

    assert type(made) is TransportError
    assert "a rank did not answer within 6 s" in str(made)
    assert "keys" not in str(made)
