"""The values that a script makes beside a session: they refuse what they cannot use, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import dynatrain
from dynatrain import ElasticLoader, ElasticSampler, LayoutError, TensorSpec, Topology, TrainState
from hostile_objects import objects

SAMPLES = torch.utils.data.TensorDataset(torch.arange(8))
VALUES: dict[str, Callable[[Any], object]] = {
    "num_samples": lambda value: ElasticSampler(value, 1),
    "global_batch_size": lambda value: ElasticSampler(8, value),
    "seed": lambda value: ElasticSampler(8, 2, seed=value),
    "shuffle": lambda value: ElasticSampler(8, 2, shuffle=value),
    "drop_last": lambda value: ElasticSampler(8, 2, drop_last=value),
    "num_epochs": lambda value: ElasticSampler(8, 2).num_steps(value),
    "uneven_shares": lambda value: ElasticSampler(8, 2, uneven_shares=value),
    "weighed": lambda value: ElasticSampler(8, 2).loss_weight(value),
    "state of a sampler": lambda value: ElasticSampler(8, 2).load_state_dict(value),
    "sampler": lambda value: ElasticLoader(SAMPLES, value),
    "micro_batch_size": lambda value: ElasticLoader(
        SAMPLES, ElasticSampler(8, 2), micro_batch_size=value
    ),
    "model": TrainState,
    "extra": lambda value: TrainState(nn.Linear(1, 1), extra=value),
    "scheduler": lambda value: TrainState(nn.Linear(1, 1), scheduler=value),
    "per_rank": lambda value: TrainState(nn.Linear(1, 1), per_rank=value),
    "fqn": lambda value: TensorSpec(value, (2, 2)),
    "shape": lambda value: TensorSpec("a", value),
    "tp_dim": lambda value: TensorSpec("a", (2, 2), value),
    "layers": lambda value: TensorSpec("a", (2, 2), None, value),
    "dtype": lambda value: TensorSpec("a", (2, 2), dtype=value),
    "link": lambda value: Topology(link_bytes_per_second=value),
    "latency": lambda value: Topology(stage_latency_seconds=value),
    "memory": lambda value: Topology(memory_bytes_per_second=value),
    "nodes": lambda value: Topology(ranks_per_node=value),
    "tensors": lambda value: dynatrain.plan("dp=2", "dp=1", value),
    "topology": lambda value: dynatrain.plan("dp=2", "dp=1", [TensorSpec("a", (2, 2))], value),
}
PLAIN = {
    "none": None,
    "negative": -1,
    "huge": 10**30,
    "nan": float("nan"),
    "text": "x",
    "nested": [[1]],
    "tensor": torch.tensor([1, 2]),
}


def odd_object(words):
    """Made for one test: tests that look at all objects of the process cannot look at these."""
    return {**objects(), **PLAIN}[words]


# Whatever is taken here is used while training stands still.
@pytest.mark.parametrize("odd", sorted({**objects(), **PLAIN}))
@pytest.mark.parametrize("name", sorted(VALUES))
def test_value_takes_or_refuses_any_object(name, odd):
    try:
        VALUES[name](odd_object(odd))
    except LayoutError as error:
        assert len(str(error).splitlines()) >= 3  # noqa: PT017 - most are taken or refused as they are


@pytest.mark.parametrize(
    ("name", "odd"),
    [("state of a sampler", "text"), ("sampler", "none"), ("model", "text"), ("extra", "text"),
     ("per_rank", "negative"), ("shape", "negative"), ("layers", "none"), ("link", "nan"),
     ("tp_dim", "huge"), ("dtype", "none"), ("seed", "nan")],
)  # fmt: skip
def test_value_that_cannot_be_used_is_refused(name, odd):
    with pytest.raises(LayoutError):
        VALUES[name](odd_object(odd))


# They are sent to the core, which takes no other.
def test_whole_numbers_of_any_class_are_plain_in_a_described_tensor():
    spec = TensorSpec("a", [torch.tensor(4), 2], torch.tensor(1))  # type: ignore[list-item]

    assert (spec.shape, spec.tp_dim) == ((4, 2), 1)
    assert {type(size) for size in spec.shape} == {int}
