"""torchtitan's own Qwen3-MoE, its parts as they are, switched between the layouts of its users."""

from __future__ import annotations

import pytest
import torch

import dynatrain
from real_models import whole
from real_models.switched import Job, switch_once
from sessions import outcome

pytest.importorskip("torchtitan", reason="needs requirements-titan.txt (Python 3.11 or newer)")


class Torchtitan:
    """The job of the guide: its trainer, with containers of optimizers and schedulers."""

    def __init__(self):
        self.guide = whole.guide("torchtitan_after")

    def start(self, layout):
        options = {"groups": self.guide.groups, "verify": ("sums", "fingerprint")}
        return dynatrain.init(self.guide.build, layout, initialize=self.draw, **options)

    def draw(self, state, world):
        """Rotary tables as torchtitan has them, weights and counters by name."""
        self.guide.draw(state, world)
        whole.draw(state.modules, skipped=("rope.cache",))

    def held(self, session):
        return self.job_of(session.state.user)

    def made_straight(self, groups):
        trainer = self.guide.Trainer(*groups)
        for part in trainer.parts:
            part.to_empty(device="cpu")
            with torch.no_grad():
                part.init_weights()
        trainer.make_optimizers()
        return self.job_of(trainer)

    def job_of(self, trainer):
        def step(number):
            trainer.train_step(self.guide.make_batch(number, trainer.dims))

        return Job(trainer.parts, trainer.optimizers, step, trainer.schedulers)


def switch(rank, world_size, source, target):
    return switch_once(Torchtitan(), source, target)


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
    for rank in pool.run(switch, source, target, timeout_s=120):
        assert rank.num_tensors > 200
        assert rank.loaded == []  # the oracle itself puts back what it took
        assert rank.moved == []
        assert rank.next_step == []
        assert rank.trained > 100
        assert rank.stray == []
        assert rank.minimal


def leave_one_idle(rank, world_size):
    return outcome(lambda: Torchtitan().start("dp=2"))


# The guide says so; a torchtitan that makes meshes for some ranks only makes it untrue.
def test_parallel_dims_refuses_a_layout_that_leaves_a_rank_idle_on_all(pool):
    for kind, text in pool.run(leave_one_idle, world_size=3, timeout_s=120):
        assert kind == "LayoutError"
        assert "the hook groups= " in text
        assert "mesh Tensor of a DeviceMesh" in text
