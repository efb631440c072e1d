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

atexit.register(lambda: print(num_groups(), flush=True))

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
RAISES = "the script raises"


#: Runs the script once for each end, each in a child that ends as an interpreter does: the imports,
#: which take longest, are made once.
LAUNCHER = """
import os, sys
import torch, torch.distributed, dynatrain

script, ends = sys.argv[1], sys.argv[2:]
for how in ends:
    child = os.fork()
    if not child:
        break
    print(how, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), sep="=", flush=True)
else:
    sys.exit()
for stream, name in ((1, "out"), (2, "err")):
    os.dup2(os.open(f"{script}.{name}.{how}", os.O_WRONLY | os.O_CREAT), stream)
sys.argv[1] = how
exec(open(script).read())
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """By end: status, groups with threads meanwhile and when the interpreter ends, errors."""
    script = tmp_path_factory.mktemp("ends") / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, script, *ENDS, RAISES],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    found = {}
    for line in done.stdout.splitlines():
        how, status = line.split("=")
        out, err = (Path(f"{script}.{name}.{how}").read_text() for name in ("out", "err"))
        found[how] = int(status), [int(number) for number in out.split()], err
    return found


# Threads of Gloo that were still at work when the interpreter ended had the process aborted: a job
# that had done all its steps ended with status 134, once in ten times.
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
@pytest.mark.parametrize("how", ENDS)
def test_no_group_of_a_session_is_left_when_the_interpreter_ends(ended, how):
    status, num_groups, errors = ended[how]

    assert status == 0, errors
    assert num_groups == [5, 0]


# Its threads may wait for a rank that is gone, for half an hour.
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_a_script_that_raises_waits_for_no_thread(ended):
    status, num_groups, errors = ended[RAISES]

    assert status == 1
    assert "of the script" in errors
    assert num_groups == [5, 5]
