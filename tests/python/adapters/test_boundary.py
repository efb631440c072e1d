"""A switch in the middle of a step is refused, whoever holds what the step has not used yet."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import TrainState
from dynatrain.adapters.torch import TorchAdapter

TORCH = TorchAdapter(torch.device("cpu"))


def state(**options):
    return TrainState(nn.Linear(3, 2), extra={"critic": nn.Linear(3, 1)}, **options)


# The model's gradients were looked at and the critic's were not: half of an accumulation was lost.
@pytest.mark.parametrize("per_rank", [(), ("critic",)])
def test_gradients_of_a_module_among_the_extras_are_refused_by_name(per_rank):
    held = state(per_rank=per_rank)
    held.extra["critic"](torch.ones(2, 3)).sum().backward()

    why = TORCH.why_not_now(held)

    assert "2 parameters hold gradients, first 'extra.critic.weight'" in why
    assert "extra.critic.zero_grad(set_to_none=True)" in why


@pytest.mark.parametrize("per_rank", [(), ("critic",)])
def test_modules_without_gradients_are_at_the_boundary(per_rank):
    held = state(per_rank=per_rank)
    for module in (held.model, held.extra["critic"]):
        module(torch.ones(2, 3)).sum().backward()
        module.zero_grad()

    assert TORCH.why_not_now(held) is None
