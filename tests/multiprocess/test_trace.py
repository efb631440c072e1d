"""A trace of a real switch: what a viewer draws of it."""

from __future__ import annotations

import json
import os
from collections import defaultdict

import torch
from torch.distributed.fsdp import fully_shard

import dynatrain


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
    always = {"build", "plan", "transfer", "wire", "commit"}
    sometimes = {"meet", "world", "pack", "unpack", "local", "verify"}
    for names, one_unpack_a_stage, inside in pool.run(profile_switch):
        phases = {name.removeprefix("dynatrain::") for name in names}
        assert always <= phases <= always | sometimes
        assert one_unpack_a_stage
        assert inside
