"""torchtitan's own Qwen3-MoE, its parts as they are, switched between the layouts of its users."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import dynatrain
import training_jobs as jobs
from real_models import whole

pytest.importorskip("torchtitan", reason="needs requirements-titan.txt (Python 3.11 or newer)")

TRAINED = 2


def draw(state, world):
    """Rotary tables as torchtitan has them, weights and counters by name."""
    whole.guide("torchtitan_after").draw(state, world)
    whole.draw(state.modules, skipped=("rope.cache",))


def gathered(trainer):
    return whole.gathered(trainer.parts, trainer.optimizers, trainer.schedulers)


def load_straight(groups, state):
    """A job in a layout that dynatrain has not seen: made by torchtitan alone, filled by hand."""
    guide = whole.guide("torchtitan_after")
    trainer = guide.Trainer(*groups)
    for part in trainer.parts:
        part.to_empty(device="cpu")
        with torch.no_grad():
            part.init_weights()
    whole.fill(state, trainer.parts, *trainer.make_optimizers())
    return trainer


def switch_once(rank, world_size, source, target):
    """Trains, switches, and trains a step beside a job that was loaded straight."""
    guide = whole.guide("torchtitan_after")
    session = dynatrain.init(
        guide.build,
        source,
        initialize=draw,
        groups=guide.groups,
        verify=("sums", "fingerprint"),
    )
    for step in range(TRAINED):
        session.state.user.train_step(guide.make_batch(step, session.state.user.dims))
    before = gathered(session.state.user)
    report = session.switch(target)
    moved = session.state.user
    after = gathered(moved)
    straight = load_straight(session.world.groups, before)
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


# A real mixture of experts: stages whose param groups carry names, experts on a mesh of their own
# beside dense meshes that are equal in both layouts, and containers of optimizers and schedulers.
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
