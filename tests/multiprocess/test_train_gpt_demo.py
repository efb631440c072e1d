"""The demo itself, shortened: what `make demo` promises is in the file that it writes."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEYS_OF_A_SWITCH = {
    "source",
    "target",
    "stop_seconds",
    "transfer_seconds",
    "build_seconds",
    "prepare_seconds",
    "bytes_moved",
    "bytes_kept",
    "lower_bound_bytes",
    "staging_peak_bytes",
    "extra_peak_bytes",
    "fingerprint_before",
    "fingerprint_after",
}


def run_demo(folder, *arguments):
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4")
    script = (str(ROOT / "examples/train_gpt.py"), "--demo", "--out", str(folder), *arguments)
    done = subprocess.run(
        (*launch, *script), check=False, timeout=240, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    output, summary = run_demo(folder, "--steps-per-layout=2")  # all nine layouts of the demo
    return folder, output, summary


# Whoever reads the summary by a program relies on these names.
def test_summary_has_the_promised_keys(demo):
    _, _, summary = demo

    assert summary.keys() >= {"schema_version", "steps", "loss_gap_max", "switches"}
    assert all(switch.keys() >= KEYS_OF_A_SWITCH for switch in summary["switches"])


# The point of the library: a run that switches is the same training.
def test_switching_changes_neither_a_bit_nor_the_loss(demo):
    _, _, summary = demo

    assert summary["steps"] == 18
    assert summary["loss_gap_max"] <= 1e-3
    for switch in summary["switches"]:
        assert switch["fingerprint_before"] == switch["fingerprint_after"]
        assert switch["not_continuous"] == []


# Minimality (law 3): nothing is sent that its receiver holds already.
def test_no_switch_moves_more_than_the_lower_bound(demo):
    _, _, summary = demo

    for switch in summary["switches"]:
        assert switch["bytes_moved"] == switch["lower_bound_bytes"] > 0


# The cold switch shows what preparing saves; the others must really have been prepared.
def test_only_the_first_switch_is_cold(demo):
    _, _, summary = demo

    assert [switch["prepared"] for switch in summary["switches"]] == [False] + [True] * 7


# A newcomer sees one line per switch and finds the two pictures.
def test_every_switch_has_a_line_and_the_pictures_are_written(demo):
    folder, output, summary = demo

    for switch in summary["switches"]:
        start = f"{switch['source']} → {switch['target']} "
        lines = [line for line in output.splitlines() if line.strip().startswith(start)]
        assert len(lines) == 1
        assert switch["fingerprint_before"] in lines[0]
    assert (folder / "losses.png").stat().st_size > 10_000
    assert (folder / "timeline.png").stat().st_size > 10_000


def train_alone(monkeypatch, *arguments):
    """The command in this process, without a launcher; returns its run."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setattr(sys, "argv", ["train_gpt.py", "--layouts=dp=1;dp=1", *arguments])
    script = importlib.import_module("train_gpt")
    runs, train = [], script.train

    def train_and_keep(config, run, *rest):
        runs.append(run)
        train(config, run, *rest)

    monkeypatch.setattr(script, "train", train_and_keep)
    assert script.main() == 0
    return runs[0]


# The reader's own comparison: as many steps, the same ones, and no switch among them.
def test_no_switch_trains_the_same_steps_in_the_first_layout(monkeypatch):
    steps = "--steps-per-layout=2"

    switching = train_alone(monkeypatch, steps)
    still = train_alone(monkeypatch, steps, "--no-switch")

    assert [len(switching.switches), len(still.switches)] == [1, 0]
    assert len(still.losses) == 4
    assert still.losses == switching.losses
