"""What build lays over a shard stays over it where ``fully_shard`` pads the shard."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

import dynatrain
from dynatrain import LayoutError, TrainState


class Views:
    """An extra that looks at parameters in place, under the names that they have."""

    def __init__(self, model):
        self.views = {name: param.detach() for name, param in model.named_parameters()}

    def state_dict(self):
        return {"views": self.views}

    def load_state_dict(self, state_dict):
        self.views = state_dict["views"]


def build(world):
    model = nn.Sequential(nn.Linear(3, 7), nn.Linear(7, 4))
    fully_shard(model, mesh=world.mesh)
    for param in model.parameters():
        param.main = param.detach()
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1), extra={"v": Views(model)})


def fill(state, world):
    with torch.no_grad():
        for param in state.model.parameters():
            param._local_tensor.fill_(0.5).cumsum_(0)


def apart(state):
    """Names of what no longer lies in the memory of its parameter."""
    found = []
    for name, param in state.model.named_parameters():
        shard = param._local_tensor
        for kind, other in (("view", state.extra["v"].views[name]), ("main", param.main)):
            local = other._local_tensor
            if shard.numel() and local.data_ptr() != shard.data_ptr():
                found.append(f"{kind} of {name}")
    return found


def step(state):
    state.model(torch.ones(2, 3)).square().sum().backward()
    state.optimizer.step()
    state.optimizer.zero_grad()


def follow(rank, world_size, path, prepared):
    session = dynatrain.init(build, path[0], initialize=fill, timeout_s=40, verify=["fingerprint"])
    found, reports = {}, []
    session.on_switch(reports.append)
    for number in session.steps(len(path)):
        found[number, "begins"] = apart(session.state)
        step(session.state)
        found[number, "ends"] = apart(session.state)
        if number + 1 < len(path):
            if prepared:
                session.prepare(path[number + 1])
            session.switch(path[number + 1])
    session.close()
    return found, [(report.fingerprint_before, report.fingerprint_after) for report in reports]


# fully_shard copies a short shard into memory with room for the padding, and nothing that lay over
# the short one moves with it: a master weight went its own way, on the last rank alone.
@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(
    "path", [["dp=2", "dp=3", "dp=4"], ["dp=1", "dp=3", "dp=2"], ["dp=4", "dp=4"]]
)
def test_what_lies_over_a_padded_shard_stays_over_it(pool, path, prepared):
    for found, fingerprints in pool.run(follow, path, prepared, world_size=4, timeout_s=90):
        assert not any(found.values()), found
        assert all(before == after for before, after in fingerprints), fingerprints


def share_on(rank, world_size, ranks):
    def build_plain(world):
        model = nn.Linear(3, 2)
        for param in model.parameters():
            param.main = param.detach() if world.rank in ranks else param.detach().clone()
        return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))

    return dynatrain.init(build_plain, f"dp={world_size}", timeout_s=40)


def refused(rank, world_size, ranks):
    try:
        share_on(rank, world_size, ranks)
    except LayoutError as error:
        return str(error)
    return "started"


# What one rank wrote to its master weight reached its weight, on another rank it did not: any rank
# that shared made the refusal believe that all did.
@pytest.mark.parametrize("ranks", [[0], [1]])
def test_memory_that_is_shared_on_some_ranks_only_is_refused(pool, ranks):
    for text in pool.run(refused, ranks, world_size=2, timeout_s=60):
        assert "lie in one memory on other ranks of the source, and apart on this one" in text


def test_memory_that_is_shared_on_all_ranks_travels(pool):
    assert pool.run(refused, [0, 1], world_size=2, timeout_s=60) == ["started"] * 2
