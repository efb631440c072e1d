"""The elastic demo, shortened: what `make demo-elastic` promises is in the file that it writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long  # 16 processes start
ROOT = Path(__file__).parents[2]
COSTS = {"stop_seconds", "lost_seconds", "repeated_steps"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    arguments = ("--events=join2,kill", "--apart=4", "--every=5", "--pace-s=0.05")
    command = (sys.executable, str(ROOT / "examples/train_elastic.py"), "--out", str(folder))
    done = subprocess.run(
        (*command, *arguments), check=False, timeout=400, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, json.loads((folder / "summary.json").read_text())


# Whoever reads the summary by a program relies on these names.
def test_summary_has_the_keys_of_the_reference(demo):
    _, summary = demo
    page = (ROOT / "docs/reference/json.md").read_text()
    section = page.split("## Elastic demo summary")[1].split("\n## ")[0]

    for name in summary:
        assert f"`{name}`" in section
    for event in summary["events"]:
        assert event.keys() == {"name", "step", "source", "target", "elastic", "restart"}
        assert event["elastic"].keys() == event["restart"].keys() == COSTS


# The point of an elastic job: it is the training that it would have been.
def test_joining_and_dying_change_no_loss(demo):
    _, summary = demo

    assert [event["name"] for event in summary["events"]] == ["join2", "kill"]
    assert [event["target"] for event in summary["events"]] == [
        "dp=2,dp_replicate=2",
        "dp_replicate=3",
    ]
    assert len(summary["losses"]) == len(summary["losses_undisturbed"]) == summary["steps"]
    assert summary["loss_gap_max"] <= 1e-3


# Nobody saved anything before the death: the step under way is all that may be lost.
def test_a_death_costs_no_step_that_all_had_done(demo):
    _, summary = demo

    assert summary["events"][1]["elastic"]["repeated_steps"] <= 1


# A newcomer looks at these.
def test_the_pictures_are_written(demo):
    folder, _ = demo

    assert (folder / "losses.png").stat().st_size > 10_000
    assert (folder / "course.png").stat().st_size > 10_000
