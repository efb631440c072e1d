"""A target that is not the state that was to be moved is refused before the vote."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import TrainState, TransportError


class Average:
    """Takes its average over, changed."""

    def __init__(self, model):
        self.mean = {name: param.detach().clone() for name, param in model.named_parameters()}

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state_dict):
        self.mean = {name: tensor * 2 + 1 for name, tensor in state_dict["mean"].items()}


class Counter:
    """Takes its count over, one too many."""

    count = 3

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"] + 1


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
        self.head.weight = self.embed.weight


def build_with(extra, model):
    def build(world):
        module = model()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        return TrainState(module, optimizer, extra={"it": extra(module)})

    return build


# The report told two fingerprints, and the job trained on in the state that was not its own.
@pytest.mark.parametrize("model", [lambda: nn.Linear(3, 2), Tied])
@pytest.mark.parametrize(
    ("extra", "differs"),
    [(Average, "the elements of its tensors differ"), (lambda _: Counter(), "values beside them")],
)
def test_a_state_that_has_arrived_changed_is_not_installed(start_verified, extra, differs, model):
    session = start_verified(build_with(extra, model))
    state = session.state
    before = session.fingerprint()

    with pytest.raises(TransportError, match=differs) as caught:
        session.switch("dp=1")

    assert caught.value.retryable
    assert session.state is state
    assert session.fingerprint() == before
