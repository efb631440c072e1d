"""A build that makes another model for the target."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState


# Its optimizer's slots were blamed, with advice that has nothing to do with it.
def test_parameter_of_another_shape_is_named_with_both(start):
    widths = []

    def build():
        widths.append(4 if len(widths) < 2 else 8)
        model = nn.Linear(4, widths[-1])
        return TrainState(model, torch.optim.AdamW(model.parameters()))

    session = start(build)
    for param in session.state.model.parameters():
        param.grad = torch.ones_like(param)
    session.state.optimizer.step()
    session.state.optimizer.zero_grad()

    with pytest.raises(LayoutError, match=r"'weight' has shape \[4, 4\][\s\S]*shape \[8, 4\]"):
        session.check("dp=1")
