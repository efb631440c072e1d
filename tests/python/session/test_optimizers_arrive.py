"""What an optimizer or a scheduler of one rank holds arrives, wherever it keeps it."""

from __future__ import annotations

from collections import deque

import pytest
import torch

import dynatrain
from dynatrain import TrainState
from held_values import Counted, model, train
from what_travels.optimizers import faced


class WithHistory(torch.optim.Optimizer):
    """Keeps its last two gradients in a row, a pair of averages in a dict, a count by number."""

    def __init__(self, params, row, lr=0.1):
        super().__init__(params, {"lr": lr})
        self.row = row

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state[param]
                if not state:
                    state["history"] = self.row([torch.zeros_like(param), torch.zeros_like(param)])
                    state["averages"] = {"fast": torch.zeros_like(param), "count": 0}
                    state[0] = torch.zeros_like(param)
                state["history"] = self.row([param.grad.clone(), state["history"][0]])
                state["averages"]["fast"].lerp_(param.grad, 0.5)
                state["averages"]["count"] += 1
                state[0] += param.grad
                param -= group["lr"] * (state["history"][1] + state["averages"]["fast"] + state[0])


def two_at_most(items):
    return deque(items, maxlen=2)


# They were pickled as values of one rank: on a sharded parameter every rank got rank 0's shard.
@pytest.mark.parametrize("row", [list, tuple, two_at_most])
def test_tensors_in_rows_and_dicts_of_slots_arrive_where_they_were(start_verified, row):
    def build(world):
        net = model()
        return TrainState(net, WithHistory(net.parameters(), row))

    session = start_verified(build)
    train(session.state)
    before = {
        name: session.state.optimizer.state[param]
        for name, param in session.state.model.named_parameters()
    }
    before = {
        name: ([t.clone() for t in s["history"]], s["averages"]["fast"].clone(), s[0].clone())
        for name, s in before.items()
    }
    report = session.switch("dp=1")

    for name, param in session.state.model.named_parameters():
        state = session.state.optimizer.state[param]
        assert set(state) == {"history", "averages", 0}
        history, fast, total = before[name]
        assert type(state["history"]) is type(row([]))
        assert getattr(state["history"], "maxlen", 2) == 2
        assert all(torch.equal(a, b) for a, b in zip(state["history"], history, strict=True))
        assert torch.equal(state["averages"]["fast"], fast)
        assert state["averages"]["count"] == 2
        assert torch.equal(state[0], total)
    assert report.fingerprint_before == report.fingerprint_after
    train(session.state)
    assert session.switch("dp=1").epoch == 2


# Such a counter was back at 0, and the warm-up began again, without a word. Loading must not cast
# the slots to the parameter's dtype either, as torch's own load_state_dict does.
def test_what_an_optimizer_writes_beside_its_state_arrives(start_verified):
    def build(world):
        net = model().to(torch.bfloat16)
        return TrainState(net, Counted(net.parameters(), lr=0.1, momentum=0.9))

    session = start_verified(build)
    train(session.state, 3)
    for slots in session.state.optimizer.state.values():
        slots["momentum_buffer"] = slots["momentum_buffer"].float() + 1e-6
    before = [s["momentum_buffer"].clone() for s in session.state.optimizer.state.values()]
    session.switch("dp=1")

    assert session.state.optimizer.num_steps == 3
    after = [s["momentum_buffer"] for s in session.state.optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


# The same through torch's hooks on one object, without a class of its own.
def test_what_a_hook_writes_beside_the_state_arrives(start_verified):
    def build(world):
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        optimizer.tokens = 0
        optimizer.register_state_dict_post_hook(lambda opt, sd: {**sd, "tokens": opt.tokens})
        optimizer.register_load_state_dict_pre_hook(
            lambda opt, sd: setattr(opt, "tokens", sd["tokens"])
        )
        return TrainState(net, optimizer)

    session = start_verified(build)
    session.state.optimizer.tokens = 512
    session.switch("dp=1")

    assert session.state.optimizer.tokens == 512


# String keys in optimizer.state raised an AttributeError.
def test_entries_of_optimizer_state_that_belong_to_no_parameter_arrive(start_verified):
    def build(world):
        net = model()
        return TrainState(net, torch.optim.AdamW(net.parameters(), lr=0.1))

    session = start_verified(build)
    train(session.state)
    session.state.optimizer.state["global_step"] = 7
    session.switch("dp=1")

    assert session.state.optimizer.state["global_step"] == 7
    train(session.state)


class Container(torch.optim.Optimizer):
    """One optimizer for each part of a model behind one face; its own state stays empty."""

    def __init__(self, parts):
        self.optimizers = [torch.optim.AdamW(part.parameters(), lr=0.1) for part in parts]
        params = [param for part in parts for param in part.parameters()]
        super().__init__(params, {"lr": 0.1})

    def step(self, closure=None):
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self):
        raise AssertionError(
            "it would join the slots of all parts, and may run a step to make them"
        )


# torchtitan gives such a one as optimizer=; all moments were lost, and the next step began anew.
def test_optimizers_inside_of_an_optimizer_keep_their_state(start_verified):
    def build(world):
        net = model()
        container = Container(net)
        schedulers = [torch.optim.lr_scheduler.StepLR(o, 2) for o in container.optimizers]
        return TrainState(net, container, scheduler=schedulers)

    session = start_verified(build)
    train(session.state, 3)
    for scheduler in session.state.scheduler:
        scheduler.step()
    old = session.state.optimizer
    before = [s["exp_avg"].clone() for o in old.optimizers for s in o.state.values()]
    session.switch("dp=1")

    after = [s for o in session.state.optimizer.optimizers for s in o.state.values()]
    assert len(after) == 4
    assert all(torch.equal(s["exp_avg"], b) for s, b in zip(after, before, strict=True))
    assert {int(s["step"]) for s in after} == {3}
    assert [s.last_epoch for s in session.state.scheduler] == [1, 1]
    assert not session.state.optimizer.state
    train(session.state)
    with pytest.raises(dynatrain.StaleStateError):
        old.optimizers[1].step()


# A face that never ran Optimizer.__init__ has no hooks to register: after the vote, an
# AttributeError on all ranks. A scheduler of the optimizer behind it is one of this state.
def test_face_of_an_optimizer_is_one_with_what_is_behind_it(start_verified):
    session = start_verified(lambda world: faced())
    old = session.state.optimizer
    session.switch("dp=1")

    with pytest.raises(dynatrain.StaleStateError):
        old.step()
    assert session.switch("dp=1").epoch == 2


def test_several_schedulers_go_on(start_verified):
    def build(world):
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        lr = torch.optim.lr_scheduler
        return TrainState(
            net, optimizer, [lr.StepLR(optimizer, 2), lr.ExponentialLR(optimizer, 0.9)]
        )

    session = start_verified(build)
    for scheduler in session.state.scheduler:
        scheduler.step()
    session.switch("dp=1")

    assert [s.last_epoch for s in session.state.scheduler] == [1, 1]


# A tensor has no truth value, and equal texts may pickle differently.
def test_learning_rate_that_is_a_tensor_travels(start_verified):
    def build(world):
        net = model()
        options = {"lr": torch.tensor(0.1, device="cpu")}
        groups = [{"params": [p], **options} for p in net.parameters()]
        return TrainState(net, torch.optim.AdamW(groups, capturable=False, foreach=False))

    session = start_verified(build)
    train(session.state)
    for group in session.state.optimizer.param_groups:
        group["lr"] = torch.tensor(0.05)
    session.switch("dp=1")

    groups = session.state.optimizer.param_groups
    assert all(group["lr"] == torch.tensor(0.05) for group in groups)
    assert len({id(group["lr"]) for group in groups}) == len(groups)
    train(session.state)
