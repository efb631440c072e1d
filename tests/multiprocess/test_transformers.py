"""Hugging Face's Qwen3-MoE under its own TP plan, switched between the layouts of its users."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import dynatrain
import training_jobs as jobs
from real_models import whole

pytest.importorskip("transformers", "5.23.0")  # its plans had other meshes before

TRAINED = 2


def gathered(model, optimizer):
    return whole.gathered([model], [optimizer])


def load_straight(groups, state):
    """A job in a layout that dynatrain has not seen: made by transformers alone, filled by hand."""
    guide = whole.guide("transformers_tp_after")
    model = guide.make_model(*groups)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    whole.fill(state, [model], [optimizer])
    return model, optimizer


def train_step(model, optimizer, groups, step):
    guide = whole.guide("transformers_tp_after")
    tokens = guide.make_batch(step, groups[1])
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def switch_once(rank, world_size, source, target):
    """Trains, switches, and trains a step beside a job that was loaded straight."""
    guide = whole.guide("transformers_tp_after")
    session = dynatrain.init(
        guide.build, source, groups=guide.groups, verify=("sums", "fingerprint")
    )
    whole.draw([session.state.model], skipped=("inv_freq",))
    for step in range(TRAINED):
        train_step(session.state.model, session.state.optimizer, session.world.groups, step)
    before = gathered(session.state.model, session.state.optimizer)
    report = session.switch(target)
    moved = session.state.model, session.state.optimizer
    after = gathered(*moved)
    straight = load_straight(session.world.groups, before)
    loaded = gathered(*straight)
    for job in (moved, straight):
        train_step(*job, session.world.groups, TRAINED)
    steps = gathered(*moved), gathered(*straight)
    session.close()
    return SimpleNamespace(
        num_tensors=len(before),
        moved=jobs.differences(before, after),
        loaded=jobs.differences(before, loaded),
        next_step=jobs.differences(*steps),
        trained=len(jobs.differences(after, steps[0])),
        minimal=report.bytes_moved == report.lower_bound_bytes,
    )


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
    for rank in pool.run(switch_once, source, target, timeout_s=120):
        assert rank.num_tensors > 100
        assert rank.loaded == []  # the oracle itself puts back what it took
        assert rank.moved == []
        assert rank.next_step == []
        assert rank.trained > 80
        assert rank.minimal
