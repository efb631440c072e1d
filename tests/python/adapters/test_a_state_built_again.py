"""A state, or an optimizer, that an earlier call of build has made already."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynatrain import LayoutError, TrainState
from dynatrain.adapters.torch.guard import check_apart


# In init nothing is switched yet: the message spoke of a present state and of its switch.
@pytest.mark.parametrize("whole", [True, False])
def test_what_an_earlier_call_has_made_is_refused_without_a_word_of_a_present_state(whole):
    model = nn.Linear(2, 2)
    first = TrainState(model, torch.optim.SGD(model.parameters()))
    second = first if whole else TrainState(nn.Linear(2, 2), first.optimizer)

    with pytest.raises(LayoutError, match="of an earlier call again") as refused:
        check_apart(second, first)

    assert "present" not in str(refused.value)
