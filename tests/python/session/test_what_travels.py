"""The page of what travels says what happens: every case is tried and held against it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.optim.swa_utils import AveragedModel

from dynatrain import TrainState
from what_travels import PAGE, page, tried
from what_travels.page import CASES
from what_travels.trial import BENT

pytestmark = pytest.mark.usefixtures("alone")


# Silently wrong is the worst that a switch can be: each case either arrives or is refused.
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_bent(name):
    outcome = tried(CASES[name])

    assert outcome.word != BENT, outcome.why


# The note below the table is of torch, and a later one may lift either.
def test_fully_shard_runs_the_later_hook_alone_and_refuses_to_be_copied(start_alone):
    def build(world):
        model = fully_shard(nn.Linear(3, 2), mesh=world.mesh)
        return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))

    model = start_alone(build).state.model
    ran = []
    model.weight.register_hook(lambda grad: ran.append("hook"))
    model.weight.register_post_accumulate_grad_hook(lambda param: ran.append("later hook"))
    model(torch.zeros(1, 3)).sum().backward()

    assert ran == ["later hook"]
    with pytest.raises(AssertionError, match="deepcopy"):
        AveragedModel(model)


#: The page was written with this torch; others word and count a little differently.
OF_PAGE = "2.15."


# A page that nobody holds against the code says what was true when it was written.
@pytest.mark.skipif(not torch.__version__.startswith(OF_PAGE), reason="another torch than the page")
def test_page_says_what_was_found():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: make what-travels"
