"""A trace of a real switch: what a viewer draws of it."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import defaultdict

import torch
from torch.distributed.fsdp import fully_shard

import dynatrain
from dynatrain.report import _OVERLAPPING
from held_values import Face

SLEEP_S = 0.5


def build(world):
    model = torch.nn.Linear(1536, 1024)  # messages large enough for several stages
    if world.enabled("dp_shard"):
        fully_shard(model, mesh=world.mesh["dp_shard"])
    return dynatrain.TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))


def write_trace(rank, world_size, folder):
    os.environ["DYNATRAIN_TRACE"] = folder
    session = dynatrain.init(build, "dp=4", timeout_s=20, staging_budget_bytes=1 << 20)
    del os.environ["DYNATRAIN_TRACE"]
    report = session.switch("dp=3")
    session.close()
    return report.num_stages


# A viewer drops or misplaces a span that begins within another one of its lane.
def test_spans_of_a_lane_do_not_overlap_and_all_ranks_are_there(pool, tmp_path):
    num_stages = pool.run(write_trace, str(tmp_path))[0]

    (path,) = tmp_path.iterdir()
    assert path.name == "switch-0001.json"
    events = json.loads(path.read_text())["traceEvents"]
    lanes = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            lanes[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert num_stages > 2
    assert {rank for rank, _ in lanes} == {0, 1, 2, 3}
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    assert lanes.keys() <= named
    for spans in lanes.values():
        spans.sort()
        ends = [end for _, end in spans]
        begins = [begin for begin, _ in spans[1:]]
        assert all(end <= begin + 0.01 for end, begin in zip(ends, begins, strict=False)), spans


def log_switches(rank, world_size):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("dynatrain.session")
    level = logger.level
    session = dynatrain.init(build, "dp=4", timeout_s=20)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        reports = [str(session.switch("dp=3"))]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    session.close()
    return lines, reports


# Four ranks wrote the line of a switch into one terminal, and none said which rank it was of.
def test_switch_is_one_line_of_the_log_of_all_ranks_together(pool):
    (lines, reports), *others = pool.run(log_switches)

    assert lines == reports
    assert [of_rank for of_rank, _ in others] == [[], [], []]


class Slow:
    """An extra that takes its time on rank 1, to be read and to take what came.

    Rank 1 begins to be late when rank 0 has nothing left but to wait for it, which it tells by a
    file of `folder`: on a loaded machine it is rank 0 that comes late.
    """

    def __init__(self, folder, rank):
        self.folder, self.rank = folder, rank

    def state_dict(self):
        self.wait("read")
        return {}

    def load_state_dict(self, state_dict):
        self.wait("taken")

    def wait(self, done):
        told = self.folder / done
        if self.rank == 0:
            told.touch()
        elif self.armed:
            while not told.exists():
                time.sleep(0.001)
            time.sleep(SLEEP_S)


def slow_switch(rank, world_size, folder):
    slow = Slow(folder, rank)
    slow.armed = False

    def with_extra(world):
        state = build(world)
        return dynatrain.TrainState(state.model, state.optimizer, extra={"slow": Face(slow)})

    session = dynatrain.init(with_extra, "dp=2", timeout_s=60, verify=["fingerprint", "replicas"])
    session.prepare("dp_replicate=2")
    if rank == 0:
        for told in folder.iterdir():
            told.unlink()
    torch.distributed.barrier()
    slow.armed = True
    report = session.switch("dp_replicate=2")
    session.close()
    return report.timeline


# What a stop waited for must be named: a white part of the timeline says nothing to mend.
def test_waiting_for_a_slow_rank_is_named_in_the_timeline(pool, tmp_path):
    timeline = pool.run(slow_switch, tmp_path, world_size=2)[0]
    seconds = defaultdict(float)
    for rank in (0, 1):
        mine = sorted((s for s in timeline if s.rank == rank), key=lambda span: span.begin_seconds)
        steps = [span for span in mine if span.phase not in _OVERLAPPING]
        assert [span.phase for span in steps] == [
            *("meet", "replicas", "values", "fingerprint", "values"),
            *("values", "fingerprint", "arrival", "commit"),
        ]
        for span in mine:
            seconds[rank, span.phase] += span.end_seconds - span.begin_seconds

    # Of SLEEP_S, what rank 0 needs from its sign to its waiting is left out.
    assert seconds[1, "values"] >= SLEEP_S
    assert seconds[0, "wire"] >= SLEEP_S / 2
    assert seconds[1, "fingerprint"] >= SLEEP_S
    assert seconds[0, "arrival"] >= SLEEP_S / 2


def profile_switch(rank, world_size):
    session = dynatrain.init(build, "dp=4", timeout_s=20, staging_budget_bytes=1 << 20)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        report = session.switch("dp=3")
    session.close()
    events = [event for event in profile.events() if event.name.startswith("dynatrain::")]
    (transfer,) = (e.time_range for e in events if e.name == "dynatrain::transfer")
    unpacks = [e.time_range for e in events if e.name == "dynatrain::unpack"]
    inside = all(transfer.start <= u.start <= u.end <= transfer.end for u in unpacks)
    return {event.name for event in events}, len(unpacks) == report.num_stages, inside


# Who profiles a training run must find the switch in the same timeline as the steps.
def test_torchs_profiler_shows_every_phase(pool):
    always = {"build", "plan", "values", "transfer", "wire", "arrival", "commit"}
    sometimes = {"meet", "world", "pack", "unpack", "local", "verify"}
    for names, one_unpack_a_stage, inside in pool.run(profile_switch):
        phases = {name.removeprefix("dynatrain::") for name in names}
        assert always <= phases <= always | sometimes
        assert one_unpack_a_stage
        assert inside
