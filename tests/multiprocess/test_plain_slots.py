"""What an optimizer keeps whole beside a sharded parameter comes back whole: a plain tensor."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.tensor import DTensor

import dynatrain
import training_jobs as jobs
from dynatrain import TrainState


class Preconditioned(torch.optim.Optimizer):
    """Keeps a whole tensor of the parameter's shape, as Shampoo does of a square weight's."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.125})

    @torch.no_grad()
    def step(self, closure=None):
        for param in self.param_groups[0]["params"]:
            state = self.state[param]
            if not state:
                state["pre"] = torch.zeros(param.shape)
                state["history"] = [torch.zeros(param.shape), torch.zeros_like(param)]
            whole = torch.arange(float(param.numel())).view(param.shape)
            state["pre"].add_(whole)  # an error for a DTensor
            state["history"][0].sub_(whole)
            state["history"][1].add_(param)  # an error for a plain tensor beside a DTensor
            param.sub_(state["history"][1] * 0.125)


def build(world):
    model = jobs.Mlp()
    jobs.parallelize(model, world)
    return TrainState(model, Preconditioned(model.parameters()))


def follow(rank, world_size, path):
    session = dynatrain.init(
        build, path[0], initialize=jobs.initialize, timeout_s=40, verify=("sums", "fingerprint")
    )
    kinds, held = set(), {}
    for step in session.steps(len(path)):
        model, optimizer = session.state.model, session.state.optimizer
        optimizer.step()
        for name, param in model.named_parameters():
            pre, (whole, cut) = optimizer.state[param].values()
            if isinstance(param, DTensor):
                kinds.add(tuple(type(each).__name__ for each in (pre, whole, cut)))
            held[name] = [jobs.whole(each) for each in (param, pre, whole, cut)]
        if step + 1 < len(path):
            session.switch(path[step + 1])
    session.close()
    return kinds, held


# It came back as a DTensor, and the next step failed with "mixed torch.Tensor and DTensor". A whole
# parameter between two sharded layouts says nothing of it: what was plain stays known.
@pytest.mark.parametrize(
    "path", [["dp=2", "dp=4", "dp=2,tp=2"], ["tp=2", "dp=1", "dp=4"], ["dp=4", "dp=1", "dp=3"]]
)
def test_a_whole_slot_of_a_sharded_parameter_comes_back_whole(pool, path):
    switched = pool.run(follow, path, world_size=4, timeout_s=80)
    plain = pool.run(follow, ["dp=1"] * len(path), world_size=4, timeout_s=80)[0][1]

    for kinds, held in switched[:2]:
        assert kinds == {("Tensor", "Tensor", "DTensor")}
        for name, tensors in held.items():
            for one, other in zip(tensors, plain[name], strict=True):
                assert torch.equal(one, other), name
