"""torchtitan's own Qwen3-MoE, its parts as they are, switched between the layouts of its users."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

import dynatrain
import training_jobs as jobs
from dynatrain import Layout

pytest.importorskip("torchtitan", reason="needs requirements-titan.txt (Python 3.11 or newer)")

GUIDES = Path(__file__).resolve().parents[2] / "examples" / "guides"
TRAINED = 2


def load_guide():
    sys.path.insert(0, str(GUIDES))
    try:
        return importlib.import_module("torchtitan_after")
    finally:
        sys.path.remove(str(GUIDES))


def draw(state, world):
    """Weights and counters that depend on the name alone; no two shards are alike."""
    load_guide().draw(state, world)
    for part in state.modules:
        for name, tensor in [*part.named_parameters(), *part.named_buffers()]:
            if not name.endswith("rope.cache"):
                generator = torch.Generator().manual_seed(sum(map(ord, name)))
                put(tensor, torch.randn(tensor.shape, generator=generator) * 0.05)


def put(tensor, whole):
    """Writes this rank's part of a whole tensor, cut by torch's own rule."""
    with torch.no_grad():
        if isinstance(tensor, DTensor):
            replicated = DTensor.from_local(whole, tensor.device_mesh, run_check=False)
            tensor._local_tensor.copy_(jobs._cut(replicated, tensor))
        else:
            tensor.copy_(whole)


def gathered(trainer):
    """The whole state of the job, on every rank: all stages, read with torch's own means."""
    parts = {"modules": trainer.parts, "optimizers": list(trainer.optimizers)}
    own = jobs.whole_state(SimpleNamespace(**parts, scheduler=trainer.schedulers))
    for name in own:
        if name.endswith(".options"):
            own[name] = {k: v for k, v in own[name].items() if k != "param_names"}
    everyones = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, own)
    whole = {}
    for of_rank in everyones:
        shared = whole.keys() & of_rank.keys()
        assert (
            jobs.differences({n: whole[n] for n in shared}, {n: of_rank[n] for n in shared}) == []
        )
        whole |= of_rank
    return whole


def load_straight(layout, whole):
    """A job in a layout that dynatrain has not seen: made by torchtitan alone, filled by hand."""
    guide = load_guide()
    trainer = guide.Trainer(*guide.MESHES[Layout.parse(layout)])
    for part in trainer.parts:
        part.to_empty(device="cpu")
        with torch.no_grad():
            part.init_weights()
    optimizers, schedulers = trainer.make_optimizers()
    names = {}
    for part in trainer.parts:
        for kind, tensors in (("param", part.named_parameters()), ("buffer", part.named_buffers())):
            for name, tensor in tensors:
                names[tensor] = name
                put(tensor, whole[f"{name}.{kind}"])
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group |= whole[f"{names[group['params'][0]]}.options"]
            for param in group["params"]:
                moments = {slot: torch.zeros_like(param) for slot in ("exp_avg", "exp_avg_sq")}
                slots = optimizer.state[param] = {"step": torch.zeros(()), **moments}
                for slot, tensor in slots.items():
                    put(tensor, whole[f"{names[param]}.{slot}"])
    schedulers.load_state_dict(whole["scheduler"])
    return trainer


def switch_once(rank, world_size, source, target):
    """Trains, switches, and trains a step beside a job that was loaded straight."""
    guide = load_guide()
    for layout in (source, target):
        chosen = Layout.parse(layout)
        guide.MESHES[chosen] = guide.make_meshes(chosen.pp, chosen.dp_shard, chosen.ep)
    session = dynatrain.init(guide.build, source, initialize=draw, verify=("sums", "fingerprint"))
    for step in range(TRAINED):
        session.state.user.train_step(guide.make_batch(step, session.state.user.dims))
    before = gathered(session.state.user)
    report = session.switch(target)
    moved = session.state.user
    after = gathered(moved)
    straight = load_straight(target, before)
    loaded = gathered(straight)
    for trainer in (moved, straight):
        trainer.train_step(guide.make_batch(TRAINED, trainer.dims))
    steps = gathered(moved), gathered(straight)
    session.close()
    stray = [
        name
        for optimizer in moved.optimizers
        for group in optimizer.param_groups
        for name in {*group["param_names"]} ^ own_names(moved, group["params"])
    ]
    return SimpleNamespace(
        num_tensors=len(before),
        moved=jobs.differences(before, after),
        loaded=jobs.differences(before, loaded),
        next_step=jobs.differences(*steps),
        trained=len(jobs.differences(after, steps[0])),
        stray=stray,
        minimal=report.bytes_moved == report.lower_bound_bytes,
    )


def own_names(trainer, params):
    wanted = {id(param) for param in params}
    return {n for part in trainer.parts for n, p in part.named_parameters() if id(p) in wanted}


# These are the pairs of a real mixture of experts that were refused, and two that permute experts.
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("pp=2,dp=2", "dp=4"),
        ("dp=4,ep=2", "dp=4"),
        pytest.param("dp=4", "pp=2,dp=2", marks=pytest.mark.long),
        pytest.param("dp=4", "dp=4,ep=2", marks=pytest.mark.long),
        pytest.param("pp=2,dp=2", "dp=4,ep=2", marks=pytest.mark.long),
        pytest.param("dp=4,ep=2", "pp=2,dp=2,ep=2", marks=pytest.mark.long),
        pytest.param("dp=4,ep=4", "dp=4,ep=2", marks=pytest.mark.long),
    ],
)
def test_qwen3_moe_arrives_bit_for_bit_and_trains_on(pool, source, target):
    for rank in pool.run(switch_once, source, target, timeout_s=120):
        assert rank.num_tensors > 200
        assert rank.loaded == []  # the oracle itself puts back what it took
        assert rank.moved == []
        assert rank.next_step == []
        assert rank.trained > 100
        assert rank.stray == []
        assert rank.minimal
