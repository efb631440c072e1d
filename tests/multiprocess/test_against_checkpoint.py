"""Switches of the main job's model held against torch's distributed checkpoint.

The oracle saves in the source, loads into a plain job built in the target, and shares no code with
dynatrain. What it cannot know (sampler, random streams) is set by hand from the source.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

import dynatrain

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from gpt.job import Job, JobConfig

STEPS_BEFORE = 2
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def tensors_of(state):
    """Parameters and optimizer state as torch's checkpoint takes them, by FQN."""
    model = get_model_state_dict(state.model)
    optimizer = get_optimizer_state_dict(state.model, state.optimizer, options=FLAT)
    return {**{f"model.{k}": v for k, v in model.items()}, **optimizer}


def bits_of(state):
    """The bytes that this rank holds of every tensor, buffers that are not saved included."""
    out = {}
    names = {id(p): name for name, p in state.model.named_parameters()}
    items = [*state.model.named_parameters(), *state.model.named_buffers()]
    for param, slots in state.optimizer.state.items():
        items += [(f"{names[id(param)]}.{slot}", value) for slot, value in slots.items()]
    for name, tensor in items:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        out[name] = local.detach().contiguous().reshape(-1).view(torch.uint8).clone()
    for group in state.optimizer.param_groups:
        options = {key: value for key, value in group.items() if key != "params"}
        out |= {f"{names[id(p)]}.options": options for p in group["params"]}
    out["scheduler"] = state.scheduler.state_dict()
    return out


def differing(a, b):
    """Names on which two ranks' bits differ."""
    return sorted(a.keys() ^ b.keys()) + [
        name
        for name in a.keys() & b.keys()
        if not (torch.equal(a[name], b[name]) if torch.is_tensor(a[name]) else a[name] == b[name])
    ]


def load_plain(path, layout, scheduler, step):
    """A job of its own in ``layout`` that loads the checkpoint; returns it with its world."""
    job = Job(JobConfig(total_steps=50, seed=99))
    session = dynatrain.init(
        job.build, layout, initialize=job.initialize, keep={"data": job.loader}, timeout_s=40
    )
    if not session.active:
        dcp.load({}, checkpoint_id=path)
        return job, session
    state = session.state
    target = tensors_of(state)  # fills the optimizer with zeros of the right shapes
    dcp.load(target, checkpoint_id=path)
    model = {k.removeprefix("model."): v for k, v in target.items() if k.startswith("model.")}
    with torch.no_grad():
        for name, value in model.items():
            own = dict(state.model.named_parameters()) | dict(state.model.named_buffers())
            if name in own:
                own[name].copy_(value)
    optimizer = {k: v for k, v in target.items() if not k.startswith("model.")}
    set_optimizer_state_dict(state.model, state.optimizer, optimizer, options=FLAT)
    state.scheduler.load_state_dict(scheduler)
    job.loader.sampler.seed = 0
    job.loader.sampler.step = step
    return job, session


def compare_with_checkpoint(rank, world_size, pairs):
    """For each pair: names that differ after the switch, and after one more step."""
    results = {}
    for source, target in pairs:
        folder = [tempfile.mkdtemp() if rank == 0 else None]
        dist.broadcast_object_list(folder)
        path = folder[0]
        job = Job(JobConfig(total_steps=50))
        session = dynatrain.init(
            job.build, source, initialize=job.initialize, keep={"data": job.loader}, timeout_s=40
        )
        steps = session.steps(STEPS_BEFORE + 1)
        for _ in range(STEPS_BEFORE):
            next(steps)
            job.train_step(session.state, session.world)
        dcp.save(tensors_of(session.state), checkpoint_id=path)
        scheduler = session.state.scheduler.state_dict()
        stream = (random.getstate(), torch.get_rng_state())
        report = session.switch(target)
        same_streams = stream[0] == random.getstate() and torch.equal(
            stream[1], torch.get_rng_state()
        )
        plain_job, plain = load_plain(path, target, scheduler, STEPS_BEFORE)
        moved, loaded = bits_of(session.state), bits_of(plain.state)
        after_switch = differing(moved, loaded)
        ours = job.train_step(session.state, session.world)
        theirs = plain_job.train_step(plain.state, plain.world)
        after_step = differing(bits_of(session.state), bits_of(plain.state))
        results[source, target] = (
            after_switch,
            after_step,
            ours == theirs,
            same_streams,
            job.loader.sampler.step == plain_job.loader.sampler.step,
            report.bytes_moved - report.lower_bound_bytes,
        )
        session.close()
        plain.close()
        dist.barrier()
        if rank == 0:
            shutil.rmtree(path, ignore_errors=True)
    return results


FOUR = ("dp=4", "dp=2,tp=2", "tp=2,pp=2", "pp=4", "dp=2,pp=2", "tp=4", "dp_replicate=2,dp=2")


def pairs_at(distance):
    """Seven pairs in which each layout is a source and a target once."""
    return [(a, FOUR[(i + distance) % len(FOUR)]) for i, a in enumerate(FOUR)]


def expect_equal(results):
    for result in results:
        for pair, outcome in result.items():
            assert outcome == ([], [], True, True, True, 0), (pair, outcome)


# Laws 1 and 8. A permuted shard trains on without an error; only its bits, and those of the step
# after, show it.
def test_law8_switch_equals_checkpoint_and_so_does_the_next_step(pool):
    expect_equal(pool.run(compare_with_checkpoint, pairs_at(3)[::2], timeout_s=300))


@pytest.mark.long
def test_law8_all_pairs(pool):
    expect_equal(pool.run(compare_with_checkpoint, pairs_at(3)[1::2] + pairs_at(1), timeout_s=600))


# All three kinds of parallelism on 8 processes.
@pytest.mark.long
def test_law8_eight_processes(pool):
    pairs = [("dp=2,tp=2,pp=2", "dp=4,pp=2"), ("dp=4,pp=2", "tp=4,pp=2")]
    expect_equal(pool.run(compare_with_checkpoint, pairs, world_size=8, timeout_s=400))
