"""Hugging Face's Qwen3-MoE under its own TP plan, switched between the layouts of its users."""

from __future__ import annotations

import pytest
import torch

import dynatrain
from real_models import whole
from real_models.switched import Job, switch_once

pytest.importorskip("transformers", "5.23.0")  # its plans had other meshes before


class Transformers:
    """The job of the guide: one model, one optimizer, batches that follow the groups."""

    def __init__(self):
        self.guide = whole.guide("transformers_tp_after")

    def start(self, layout):
        options = {"groups": self.guide.groups, "verify": ("sums", "fingerprint")}
        session = dynatrain.init(self.guide.build, layout, **options)
        whole.draw([session.state.model], skipped=("inv_freq",))
        return session

    def held(self, session):
        state = session.state
        return self.job_of(state.model, state.optimizer, session.world.groups)

    def made_straight(self, groups):
        model = self.guide.make_model(*groups)
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
        return self.job_of(model, optimizer, groups)

    def job_of(self, model, optimizer, groups):
        def step(number):
            tokens = self.guide.make_batch(number, groups[1])
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return Job([model], [optimizer], step)


def switch(rank, world_size, source, target):
    return switch_once(Transformers(), source, target)


# gate_up_proj is packed: a shard of it is two boxes, where torch's checkpoint permutes weights
# without a word. Norms of queries and keys reduce their gradients in hooks of their first forward.
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("dp=2,tp=2", "tp=4"),
        ("tp=4", "dp=4"),
        pytest.param("dp=4", "tp=4", marks=pytest.mark.long),
        pytest.param("tp=4", "dp=2,tp=2", marks=pytest.mark.long),
        pytest.param("dp=2,tp=2", "dp=4", marks=pytest.mark.long),
    ],
)
def test_qwen3_moe_arrives_bit_for_bit_and_trains_on(pool, source, target):
    for rank in pool.run(switch, source, target, timeout_s=120):
        assert rank.num_tensors > 100
        assert rank.loaded == []  # the oracle itself puts back what it took
        assert rank.moved == []
        assert rank.next_step == []
        assert rank.trained > 80
        assert rank.minimal
