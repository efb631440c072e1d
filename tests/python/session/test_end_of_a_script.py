"""A script that ends takes its groups with it, whoever has made them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import atexit, sys, time
from pathlib import Path

def num_named():
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum("pt_gloo_runloop" in name for name in names) // 2

def num_groups():
    before = None
    while (now := num_named()) != before:  # a new thread gets its name a little later
        before = now
        time.sleep(0.1)
    return now

atexit.register(lambda: print(num_groups()))

import torch
import torch.distributed as dist
import dynatrain
from dynatrain import TrainState

def build(world):
    model = torch.nn.Linear(3, 2)
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))

if sys.argv[1] != "init makes the group":
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
first = dynatrain.init(build, "dp=1")
second = dynatrain.init(build, "dp=1")
second.switch("dp=1")
print(num_groups())
if sys.argv[1] == "the script ends its group":
    dist.destroy_process_group()
if sys.argv[1] == "the script raises":
    raise ValueError("of the script")
"""

ENDS = ["init makes the group", "the script leaves its group", "the script ends its group"]


def run_to_its_end(tmp_path, how):
    """Its status, its groups with threads meanwhile and when the interpreter ends, its errors."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, how], capture_output=True, text=True, timeout=90, check=False
    )
    return done.returncode, [int(line) for line in done.stdout.split()], done.stderr


# Threads of Gloo that were still at work when the interpreter ended had the process aborted: a job
# that had done all its steps ended with status 134, once in ten times.
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
@pytest.mark.parametrize("how", ENDS)
def test_no_group_of_a_session_is_left_when_the_interpreter_ends(tmp_path, how):
    status, num_groups, errors = run_to_its_end(tmp_path, how)

    assert status == 0, errors
    assert num_groups == [5, 0]


# Its threads may wait for a rank that is gone, for half an hour.
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_a_script_that_raises_waits_for_no_thread(tmp_path):
    status, num_groups, errors = run_to_its_end(tmp_path, "the script raises")

    assert status == 1
    assert "of the script" in errors
    assert num_groups == [5, 5]
