"""What a job of one rank carries over a switch, and what it refuses before anything moves."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.optim.swa_utils import AveragedModel

import dynatrain
from dynatrain import LayoutError, TrainState
from what_travels.optimizers import faced


@pytest.fixture
def start(monkeypatch):
    """Starts sessions of one rank; they end with the test."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    made = []

    def start(build):
        made.append(dynatrain.init(build, "dp=1", timeout_s=20, verify=("sums", "fingerprint")))
        return made[-1]

    yield start
    for session in made:
        session.close()
    dist.destroy_process_group()


def model():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def train(state, num_steps=2):
    """Steps on gradients that are a function of the weights."""
    for _ in range(num_steps):
        for module in state.modules:
            for param in module.parameters():
                param.grad = param.detach() * 0.5 + 0.1
        for optimizer in state.optimizers:
            optimizer.step()
            optimizer.zero_grad()


def refused(session, *words):
    """Switches, expects a refusal, and that the source trains on; returns the text."""
    before = {name: p.clone() for name, p in session.state.model.named_parameters()}
    with pytest.raises(LayoutError) as caught:
        session.switch("dp=1")
    for word in (*words, "intact"):
        assert word in str(caught.value)
    for name, param in session.state.model.named_parameters():
        assert torch.equal(param, before[name])
    train(session.state)
    return str(caught.value)


class WithHistory(torch.optim.Optimizer):
    """Keeps its last two gradients in a list, a pair of averages in a dict, a count by number."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state[param]
                if not state:
                    state["history"] = [torch.zeros_like(param), torch.zeros_like(param)]
                    state["averages"] = {"fast": torch.zeros_like(param), "count": 0}
                    state[0] = torch.zeros_like(param)
                state["history"] = [param.grad.clone(), state["history"][0]]
                state["averages"]["fast"].lerp_(param.grad, 0.5)
                state["averages"]["count"] += 1
                state[0] += param.grad
                param -= group["lr"] * (state["history"][1] + state["averages"]["fast"] + state[0])


# They were pickled as values of one rank: on a sharded parameter every rank got rank 0's shard.
def test_tensors_in_lists_and_dicts_of_slots_arrive_where_they_were(start):
    def build(world):
        net = model()
        return TrainState(net, WithHistory(net.parameters()))

    session = start(build)
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
        assert all(torch.equal(a, b) for a, b in zip(state["history"], history, strict=True))
        assert torch.equal(state["averages"]["fast"], fast)
        assert state["averages"]["count"] == 2
        assert torch.equal(state[0], total)
    assert report.fingerprint_before == report.fingerprint_after
    train(session.state)
    assert session.switch("dp=1").epoch == 2


class Counted(torch.optim.SGD):
    """Counts its steps beside its state, as a wrapper with a warm-up does."""

    def __init__(self, params, **options):
        super().__init__(params, **options)
        self.num_steps = 0

    def step(self, closure=None):
        self.num_steps += 1
        return super().step(closure)

    def state_dict(self):
        return {**super().state_dict(), "num_steps": self.num_steps}

    def load_state_dict(self, state_dict):
        self.num_steps = state_dict.pop("num_steps")
        super().load_state_dict(state_dict)


# Such a counter was back at 0, and the warm-up began again, without a word. Loading must not cast
# the slots to the parameter's dtype either, as torch's own load_state_dict does.
def test_what_an_optimizer_writes_beside_its_state_arrives(start):
    def build(world):
        net = model().to(torch.bfloat16)
        return TrainState(net, Counted(net.parameters(), lr=0.1, momentum=0.9))

    session = start(build)
    train(session.state, 3)
    for slots in session.state.optimizer.state.values():
        slots["momentum_buffer"] = slots["momentum_buffer"].float() + 1e-6
    before = [s["momentum_buffer"].clone() for s in session.state.optimizer.state.values()]
    session.switch("dp=1")

    assert session.state.optimizer.num_steps == 3
    after = [s["momentum_buffer"] for s in session.state.optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


# The same through torch's hooks on one object, without a class of its own.
def test_what_a_hook_writes_beside_the_state_arrives(start):
    def build(world):
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        optimizer.tokens = 0
        optimizer.register_state_dict_post_hook(lambda opt, sd: {**sd, "tokens": opt.tokens})
        optimizer.register_load_state_dict_pre_hook(
            lambda opt, sd: setattr(opt, "tokens", sd["tokens"])
        )
        return TrainState(net, optimizer)

    session = start(build)
    session.state.optimizer.tokens = 512
    session.switch("dp=1")

    assert session.state.optimizer.tokens == 512


# String keys in optimizer.state raised an AttributeError.
def test_entries_of_optimizer_state_that_belong_to_no_parameter_arrive(start):
    def build(world):
        net = model()
        return TrainState(net, torch.optim.AdamW(net.parameters(), lr=0.1))

    session = start(build)
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
def test_optimizers_inside_of_an_optimizer_keep_their_state(start):
    def build(world):
        net = model()
        container = Container(net)
        schedulers = [torch.optim.lr_scheduler.StepLR(o, 2) for o in container.optimizers]
        return TrainState(net, container, scheduler=schedulers)

    session = start(build)
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
def test_face_of_an_optimizer_is_one_with_what_is_behind_it(start):
    session = start(lambda world: faced())
    old = session.state.optimizer
    session.switch("dp=1")

    with pytest.raises(dynatrain.StaleStateError):
        old.step()
    assert session.switch("dp=1").epoch == 2


class Scaled(nn.Linear):
    """A layer with a history behind torch's hook, as FP8 layers keep of their largest values."""

    def __init__(self):
        super().__init__(3, 3)
        self.largest = [0.0]

    def get_extra_state(self):
        return {"largest": self.largest}

    def set_extra_state(self, state):
        self.largest = state["largest"]


def test_extra_state_of_modules_arrives(start):
    def build(world):
        net = nn.Sequential(Scaled(), Scaled())
        return TrainState(net, torch.optim.SGD(net.parameters(), lr=0.1))

    session = start(build)
    session.state.model[0].largest = [1.0, 2.0]
    session.state.model[1].largest = [3.0]
    report = session.switch("dp=1")

    assert [layer.largest for layer in session.state.model] == [[1.0, 2.0], [3.0]]
    assert report.fingerprint_before == report.fingerprint_after


# A fingerprint of the elements alone says "same state" of another learning rate.
@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.optimizer.param_groups[0].update(lr=0.3),
        lambda state: setattr(state.model[0], "largest", [5.0]),
        lambda state: state.extra["counter"].update(n=1),
        lambda state: setattr(state.optimizer, "num_steps", 4),
        lambda state: setattr(state.scheduler, "last_epoch", 4),
    ],
    ids=["option", "extra state of a module", "extra", "beside the optimizer", "scheduler"],
)
def test_fingerprint_changes_with_every_value_that_travels(start, change):
    def build(world):
        net = nn.Sequential(Scaled())
        optimizer = Counted(net.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        return TrainState(net, optimizer, scheduler, extra={"counter": Plain(n=0)})

    session = start(build)
    before = session.fingerprint()
    change(session.state)

    assert session.fingerprint() != before


class Plain(dict):
    """An extra of plain data."""

    def state_dict(self):
        return dict(self)

    def load_state_dict(self, state_dict):
        self.clear()
        self.update(state_dict)


# load_state_dict of a module copies into what is there: on meta, nothing at all.
@pytest.mark.parametrize("assigns", [True, False])
def test_average_of_the_weights_as_extra_arrives(start, assigns):
    def build(world):
        net = model()
        ema = AveragedModel(net) if assigns else Shadow(net)
        return TrainState(net, torch.optim.SGD(net.parameters(), lr=0.1), extra={"ema": ema})

    session = start(build)
    for _ in range(3):
        train(session.state)
        session.state.extra["ema"].update_parameters(session.state.model)
    before = {k: v.clone() for k, v in session.state.extra["ema"].state_dict().items()}
    report = session.switch("dp=1")

    after = session.state.extra["ema"].state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert report.fingerprint_before == report.fingerprint_after
    session.state.extra["ema"].update_parameters(session.state.model)


class Shadow:
    """A moving average by name, copied in place when it is loaded."""

    def __init__(self, module):
        self.shadow = {name: p.detach().clone() for name, p in module.named_parameters()}

    def update_parameters(self, module):
        for name, param in module.named_parameters():
            self.shadow[name].lerp_(param.detach(), 0.5)

    def state_dict(self):
        return self.shadow

    def load_state_dict(self, state_dict):
        for name, tensor in state_dict.items():
            self.shadow[name].copy_(tensor)


class Copying(Shadow):
    """Hands out copies and loads into what is there: on meta that is nothing."""

    def __init__(self, module):
        self.shadow = {"": torch.zeros(3)}

    def state_dict(self):
        return {name: tensor.clone() for name, tensor in self.shadow.items()}


def test_extra_that_stays_on_meta_is_refused_by_name(start):
    def build(world):
        net = model()
        return TrainState(net, extra={"average": Copying(net)})

    with pytest.raises(LayoutError, match=r"extra\.average has no memory"):
        start(build)


# ---- what a target cannot take ------------------------------------------------------------------


# It was done and said so; the next step raised a KeyError and the source was gone.
def test_another_class_of_optimizer_is_refused(start):
    kinds = iter([torch.optim.AdamW, torch.optim.AdamW, torch.optim.Adamax])

    def build(world):
        net = model()
        return TrainState(net, next(kinds)(net.parameters(), lr=0.1))

    session = start(build)
    train(session.state)
    refused(session, "Adamax", "AdamW")


def test_another_class_of_scheduler_is_refused(start):
    lr = torch.optim.lr_scheduler
    stepped = [lambda o: lr.StepLR(o, 2)] * 2  # of init's trial, and of the first build
    kinds = iter([*stepped, lambda o: lr.CosineAnnealingLR(o, 9)])

    def build(world):
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        return TrainState(net, optimizer, next(kinds)(optimizer))

    refused(start(build), "CosineAnnealingLR", "StepLR")


# The state of a scheduler counts groups by place: its next step raised, or gave a group the
# learning rate of another one.
@pytest.mark.parametrize("mistake", ["left out", "swapped"])
def test_groups_that_are_not_where_the_scheduler_counts_them_are_refused(start, mistake):
    target = []

    def build(world):
        net = model()
        groups = [
            {"params": [net[0].weight, net[1].weight], "lr": 0.1},
            {"params": [net[0].bias, net[1].bias], "lr": 0.2},
        ]
        if target == ["left out"]:
            groups = groups[:1]
        elif target == ["swapped"]:
            groups.reverse()
        optimizer = torch.optim.SGD(groups)
        return TrainState(net, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2))

    session = start(build)
    target.append(mistake)
    refused(session, "scheduler", "group")
    target.clear()
    session.switch("dp=1")
    assert session.state.scheduler.base_lrs == [0.1, 0.2]


# All state was dropped with the "replaced" state, which was the new one.
@pytest.mark.parametrize("what", ["the present TrainState", "optimizer"])
def test_build_that_returns_the_present_state_again_is_refused(start, what):
    made = []

    def build(world):
        if made and what != "optimizer":
            return made[0]
        net = model()
        optimizer = made[0].optimizer if made else torch.optim.AdamW(net.parameters())
        return TrainState(net, optimizer)

    session = start(build)
    made.append(session.state)
    refused(session, what, "inside build")


def test_scheduler_of_another_optimizer_is_refused(start):
    made = []

    def build(world):
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        made.append(torch.optim.lr_scheduler.StepLR(optimizer, 2))
        return TrainState(net, optimizer, made[0])

    refused(start(build), "drives an optimizer")


# State that nobody takes is lost, and the target trains on without it.
@pytest.mark.parametrize("lost", ["scheduler", "extra.counter", "modules of '1'"])
def test_state_that_no_rank_of_the_target_takes_is_refused(start, lost):
    again = []

    def build(world):
        second = nn.Linear(3, 3) if again == ["modules of '1'"] else Scaled()
        net = nn.Sequential(Scaled(), second)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        return TrainState(
            net,
            optimizer,
            None if again == ["scheduler"] else scheduler,
            extra={} if again == ["extra.counter"] else {"counter": Plain()},
        )

    session = start(build)
    again.append(lost)
    refused(session, lost, "no rank")


# A group added in the middle of a run, or a filter that differs: a parameter would stand still from
# the switch on.
def test_parameter_that_no_optimizer_of_the_target_has_is_refused(start):
    def build(world):
        net = model()
        return TrainState(net, torch.optim.SGD(net[0].parameters(), lr=0.1))

    session = start(build)
    session.state.optimizer.add_param_group({"params": list(session.state.model[1].parameters())})
    refused(session, "param_groups of '1.bias'", "no rank")


def test_extra_that_is_per_rank_in_the_target_alone_is_refused(start):
    calls = []

    def build(world):
        calls.append(1)
        net = model()
        per_rank = ["counter"] if len(calls) > 2 else []
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        return TrainState(net, optimizer, extra={"counter": Plain()}, per_rank=per_rank)

    refused(start(build), "extra.counter", "no rank")


# ---- refusals that were errors of the interpreter -----------------------------------------------


def test_several_schedulers_go_on(start):
    def build(world):
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        lr = torch.optim.lr_scheduler
        return TrainState(
            net, optimizer, [lr.StepLR(optimizer, 2), lr.ExponentialLR(optimizer, 0.9)]
        )

    session = start(build)
    for scheduler in session.state.scheduler:
        scheduler.step()
    session.switch("dp=1")

    assert [s.last_epoch for s in session.state.scheduler] == [1, 1]


def test_scheduler_without_state_is_refused_at_once():
    with pytest.raises(LayoutError, match=r"scheduler\.1 is a object"):
        TrainState(model(), scheduler=[Plain(), object()])


# A tensor has no truth value, and equal texts may pickle differently.
def test_learning_rate_that_is_a_tensor_travels(start):
    def build(world):
        net = model()
        options = {"lr": torch.tensor(0.1, device="cpu")}
        groups = [{"params": [p], **options} for p in net.parameters()]
        return TrainState(net, torch.optim.AdamW(groups, capturable=False, foreach=False))

    session = start(build)
    train(session.state)
    for group in session.state.optimizer.param_groups:
        group["lr"] = torch.tensor(0.05)
    session.switch("dp=1")

    groups = session.state.optimizer.param_groups
    assert all(group["lr"] == torch.tensor(0.05) for group in groups)
    assert len({id(group["lr"]) for group in groups}) == len(groups)
    train(session.state)


class Broken(Plain):
    def state_dict(self):
        raise KeyError("gone")


class Unpicklable(Plain):
    def state_dict(self):
        return {"hook": lambda: None}


class Strange(Plain):
    def load_state_dict(self, state_dict):
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", [Broken, Unpicklable, Strange])
def test_error_of_an_extra_is_refused_by_its_name(start, kind):
    def build(world):
        net = model()
        return TrainState(net, torch.optim.SGD(net.parameters(), lr=0.1), extra={"odd": kind()})

    with pytest.raises(LayoutError, match=r"extra\.odd"):
        start(build)


class Counting(nn.Linear):
    """A module that counts beside its parameters."""

    updates = 0

    def state_dict(self, *args, **kwargs):
        return {**super().state_dict(*args, **kwargs), "updates": self.updates}


# Only its tensors would arrive; the count began anew and nothing was said.
def test_module_that_hands_over_more_than_tensors_is_refused_as_an_extra(start):
    def build(world):
        net = model()
        return TrainState(
            net, torch.optim.SGD(net.parameters(), lr=0.1), extra={"ema": Counting(3, 2)}
        )

    with pytest.raises(LayoutError, match=r"extra\.ema(.|\n)*'updates'"):
        start(build)
