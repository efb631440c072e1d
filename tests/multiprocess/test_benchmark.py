"""The benchmark's smallest case: it runs, and its JSON is what the reference page lists."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch.distributed as dist

import dynatrain
from checkout import ROOT

PAIRS = [("dp=4", "dp=2,tp=2"), ("tp=4", "dp=2,tp=2"), ("dp=2,tp=2", "tp=4"), ("dp=4", "dp=2")]
CONTENDERS = {
    "dynatrain-c10d",
    "dcp-tmpfs",
    "c10d-per-tensor",
    "c10d-ceiling",
    "c10d-ceiling-with-copies",
    "copy-ceiling",
}


def timed(*options):
    command = (sys.executable, str(ROOT / "benchmarks/switch.py"), "--json", *options)
    done = subprocess.run(command, check=False, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def rows():
    return timed("--params=1e6", "--runs=1")


# A number without its neighbours says nothing: every pair has all contenders beside each other.
def test_every_pair_is_timed_with_every_contender(rows):
    contenders = defaultdict(set)
    for row in rows:
        contenders[row["source"], row["target"]].add(row["contender"])

    assert contenders == dict.fromkeys(PAIRS, CONTENDERS)
    assert len(rows) == len(PAIRS) * len(CONTENDERS)


# Whoever plots the rows relies on the page that lists their fields.
def test_rows_have_the_fields_of_the_reference(rows, reference_fields):
    for row in rows:
        assert row.keys() == reference_fields("Benchmark rows")
        assert row["schema_version"] == 1


# Minimality (law 3), on the very switches that the published numbers are of.
def test_timed_switch_moves_no_more_than_the_lower_bound(rows):
    for row in rows:
        assert row["bytes_moved"] == row["lower_bound_bytes"] > 0


# Preparation is no cost of the contenders that build nothing, and a cost of ours.
def test_only_the_switch_has_a_stop_of_its_own(rows):
    for row in rows:
        apart = row["stop_seconds_median"] != row["seconds_median"]
        assert apart == (row["contender"] == "dynatrain-c10d")


# What users do without us is a real torchrun; it counts when its ranks have loaded the state.
@pytest.mark.long
def test_a_restart_is_timed_where_it_is_asked_for():
    one_pair = ("--source=dp=4", "--target=dp=2,tp=2", "--restarts=1")
    rows = timed("--params=1e6", "--runs=2", *one_pair)

    assert {row["contender"] for row in rows} == CONTENDERS | {"restart"}


# Megatron-Core is in no list of ours: who asks for it here must hear what to do.
def test_a_contender_that_is_not_installed_is_skipped_with_the_reason():
    command = (sys.executable, str(ROOT / "benchmarks/beside_megatron.py"))
    done = subprocess.run(command, check=False, timeout=100, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "skipped: megatron-core is not in this environment; see --help\n"


def run_one_pair(rank, world_size, folder):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        benchmark = importlib.import_module("switch")
    finally:
        sys.path.pop(0)
    job = benchmark.Job(1)
    session = dynatrain.init(job.build, "dp=2", initialize=job.initialize)
    switches = []
    session.on_switch(lambda report: switches.append((report.target, report.prepared)))
    samples = benchmark.run_pair(session, ("dp=2", "tp=2"), 2, Path(folder) / "checkpoint")
    session.close()
    ours = samples[benchmark.OURS]
    return switches, len(ours.seconds), len(ours.cold_seconds)


# A "cold" switch whose target was prepared would show a stop that no user ever sees.
def test_each_run_times_one_prepared_and_one_cold_switch(pool, tmp_path):
    run = [("tp=2", True), ("dp=2", False), ("tp=2", False), ("dp=2", False)]

    for switches, num_prepared, num_cold in pool.run(run_one_pair, str(tmp_path), world_size=2):
        assert switches == run * 2
        assert num_prepared == num_cold == 2


def run_what_a_gpu_adds(rank, world_size):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        benchmark = importlib.import_module("switch")
    finally:
        sys.path.pop(0)
    job = benchmark.Job(1)
    session = dynatrain.init(job.build, "dp=2", initialize=job.initialize)
    session.prepare("tp=2")
    moves = benchmark.plan_moves(session)
    copied = benchmark.plain_copy(sum(benchmark.elems_to_copy(session, moves)), session.device)()
    benchmark.per_tensor_over_nccl(moves, session.device, dist.new_group(backend="gloo"))()
    planned = benchmark.planned_bytes(session)
    report = session.switch("tp=2")
    session.close()
    fresh = report.extra_peak_bytes - report.staging_peak_bytes
    return copied.nbytes, planned, fresh, report.bytes_moved + report.bytes_kept


# The ceiling of a GPU is a copy of what a switch writes there; more would flatter the switch.
def test_the_device_copy_is_of_the_bytes_that_a_switch_writes(pool):
    results = pool.run(run_what_a_gpu_adds, world_size=2)

    for _, planned, fresh, _ in results:
        assert planned == fresh > 0
    fresh_of_all = sum(planned for _, planned, _, _ in results)
    assert 0 < sum(copied for copied, _, _, _ in results) <= results[0][3]
    assert sum(copied for copied, _, _, _ in results) == fresh_of_all


# Predictions are of the very states that are switched.
def test_predictions_are_beside_switches_of_every_pair(reference_fields):
    program = str(ROOT / "benchmarks/predictions.py")
    command = (sys.executable, program, "--json", "--runs=1", "--params", "20e6")
    done = subprocess.run(command, check=False, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    assert found.keys() == {"links", "rows"}
    for row in found["rows"]:
        assert row.keys() == reference_fields("Prediction rows")
        assert 0 < row["bound_seconds"] <= row["predicted_seconds"]
    assert [row["is_fitted"] for row in found["rows"]].count(True) == 1
    assert [(row["source"], row["target"]) for row in found["rows"]][:4] == PAIRS
    assert all(row["bytes_moved"] > 0 for row in found["rows"])
