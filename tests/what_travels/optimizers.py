"""Optimizers: all of torch, and what is written beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from dynatrain import TrainState
from what_travels.trial import Case, descend, net, sgd, train

OPTIONS: dict[str, dict[str, Any]] = {"LBFGS": {"max_iter": 3}, "SGD": {"momentum": 0.9}}


class Matrices(nn.Module):
    """A model without vectors, for optimizers that take none."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(3, 4, bias=False)
        self.down = nn.Linear(4, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x).tanh())


class Sparse(nn.Module):
    """An embedding with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 3, sparse=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table((x.abs() * 10).long() % 7)


def of_torch(name: str) -> Case:
    """A case for a class of torch.optim."""
    model = {"Muon": Matrices, "SparseAdam": Sparse}.get(name, net)
    kind = getattr(torch.optim, name)
    options: dict[str, Any] = {"lr": 0.02, **OPTIONS.get(name, {})}
    if "foreach" in kind.__init__.__annotations__:
        options["foreach"] = False
    return case(lambda params: kind(params, **options), model)


def case(
    make: Callable[[Any], torch.optim.Optimizer],
    model: Callable[[], nn.Module] = net,
    more: Callable[[Any], object] = lambda optimizer: None,
) -> Case:
    """A case for an optimizer of all parameters of a model."""

    def build() -> TrainState:
        module = model()
        return TrainState(module, make(module.parameters()))

    return Case(build, more=lambda state, keep: more(state.optimizer))


class ScheduleFree(torch.optim.Optimizer):
    """Steps on a sequence beside the averaged weights; counts in its groups."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1, "k": 0, "weight_sum": 0.0, "train_mode": True})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["k"] += 1
            group["weight_sum"] += group["lr"] ** 2
            for param in group["params"]:
                z = self.state[param].setdefault("z", param.detach().clone())
                z.sub_(param.grad, alpha=group["lr"])
                param.lerp_(z, group["lr"] ** 2 / group["weight_sum"])


class Listed(torch.optim.Optimizer):
    """Keeps its last gradients in a list, and a count in a dict."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state[param]
                state["last"] = [param.grad.clone(), *state.get("last", [])[:2]]
                state["counts"] = {"steps": state.get("counts", {"steps": 0})["steps"] + 1}
                param.sub_(sum(state["last"]), alpha=group["lr"] / state["counts"]["steps"])


class Rows(torch.optim.Optimizer):
    """Keeps a mean for each row: a slot of another shape than its parameter."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                mean = param.grad.square().reshape(len(param), -1).mean(1)
                rows = self.state[param].setdefault("rows", torch.zeros_like(mean))
                rows.lerp_(mean, 0.5)
                scale = rows.add(1e-3).rsqrt().reshape(-1, *[1] * (param.dim() - 1))
                param.sub_(param.grad * scale, alpha=group["lr"])


class Codes(torch.Tensor):
    """Codes and a scale behind one tensor, as the 8-bit optimizers of torchao keep moments."""

    @staticmethod
    def __new__(cls, codes: torch.Tensor, scale: torch.Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype)

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self) -> Any:
        return ["codes", "scale"], []

    @classmethod
    def __tensor_unflatten__(cls, inner: Any, attributes: Any, shape: Any, stride: Any) -> Any:
        return cls(inner["codes"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def plain(item: Any) -> Any:
            return item.codes * item.scale if isinstance(item, cls) else item

        if func is torch.ops.aten.detach.default:
            return cls(args[0].codes, args[0].scale)
        return func(*tree_map(plain, args), **tree_map(plain, kwargs or {}))


class Coded(torch.optim.Optimizer):
    """Keeps a moving average of gradients in 8 bits."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                mean = param.grad.lerp(self.state[param].get("mean", param.grad), 0.5)
                scale = mean.abs().max() / 127 + 1e-9
                self.state[param]["mean"] = Codes((mean / scale).round().to(torch.int8), scale)
                param.sub_(self.state[param]["mean"] * group["lr"])


class Warm(torch.optim.SGD):
    """Counts its steps beside its state, and says so in ``state_dict``."""

    num_steps = 0

    def step(self, closure: Any = None) -> Any:
        self.num_steps += 1
        for group in self.param_groups:
            group["lr"] = 0.1 * min(1.0, self.num_steps / 5)
        return super().step(closure)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "num_steps": self.num_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num_steps = state_dict["num_steps"]
        super().load_state_dict(state_dict)


class Loose(torch.optim.SGD):
    """Counts its steps in ``state`` under a name."""

    def step(self, closure: Any = None) -> Any:
        self.state["num_steps"] = self.state.get("num_steps", 0) + 1
        for group in self.param_groups:
            group["lr"] = 0.1 / self.state["num_steps"]
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)


class Container(torch.optim.Optimizer):
    """Holds an optimizer for each half of the parameters."""

    def __init__(self, params: Any) -> None:
        params = list(params)
        self.optimizers = [
            torch.optim.AdamW(half, lr=0.1, foreach=False) for half in (params[:2], params[2:])
        ]
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


class LookAhead(torch.optim.Optimizer):
    """Slow weights around a base optimizer, whose groups it shares."""

    def __init__(self, params: Any) -> None:
        self.base = torch.optim.Adam(params, lr=0.1, foreach=False)
        super().__init__(self.base.param_groups, {"lr": 0.1, "count": 0})
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.base.step()
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            for param in group["params"]:
                slow = self.state[param].setdefault("slow", param.detach().clone())
                if group["count"] % 2 == 0:
                    slow.lerp_(param, 0.5)
                    param.copy_(slow)


class Face(torch.optim.Optimizer):
    """Stands before an optimizer, whose state and groups are its own, as accelerate's does."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def state(self) -> Any:
        return self.optimizer.state

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict)


def faced() -> TrainState:
    """A scheduler that drives the optimizer behind a face."""
    module = net()
    face = Face(sgd(module))
    return TrainState(module, face, torch.optim.lr_scheduler.StepLR(face.optimizer, 2))


def moments(optimizer: Any) -> object:
    """Slots of the optimizers inside."""
    inner = getattr(optimizer, "optimizers", None) or [optimizer.base]
    return [list(one.state.values()) for one in inner]


def hooked(params: Any) -> torch.optim.Optimizer:
    """Torch's hooks on one object."""
    optimizer = torch.optim.SGD(params, lr=0.1)
    optimizer.tokens = 0  # type: ignore[attr-defined]

    def count(opt: Any, args: Any, kwargs: Any) -> None:
        opt.tokens += 5
        opt.param_groups[0]["lr"] = 1.0 / opt.tokens

    optimizer.register_step_pre_hook(count)
    optimizer.register_state_dict_post_hook(lambda opt, sd: {**sd, "tokens": opt.tokens})
    optimizer.register_load_state_dict_pre_hook(
        lambda opt, sd: setattr(opt, "tokens", sd["tokens"])
    )
    return optimizer


def two() -> TrainState:
    """A sequence of optimizers."""
    module = net()
    return TrainState(module, [sgd(module[0]), torch.optim.Adam(module[2].parameters(), lr=0.1)])


def named() -> TrainState:
    """Groups that know names of their parameters."""
    module = net()
    return TrainState(module, torch.optim.AdamW(module.named_parameters(), lr=0.1, foreach=False))


def frozen() -> TrainState:
    """A part without gradients."""
    module = net()
    module[0].requires_grad_(False)
    return TrainState(module, torch.optim.AdamW(module.parameters(), lr=0.1, foreach=False))


def by_loss(state: TrainState, keep: dict[str, Any], step: int) -> None:
    """A step with a scaler."""
    del keep
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
    state.scaler.scale(state.model(inputs).square().mean()).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()


def scaled() -> TrainState:
    """A gradient scaler that grows every second step."""
    module = net()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    return TrainState(module, sgd(module), scaler=scaler)


def of_all_torch() -> list[str]:
    """Classes of torch.optim."""
    return sorted(
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type)
        and issubclass(kind, torch.optim.Optimizer)
        and name != "Optimizer"
    )


def tensor_lr(params: Any) -> torch.optim.Optimizer:
    """A learning rate that is a tensor."""
    return torch.optim.AdamW(params, lr=torch.tensor(0.1, device="cpu"), foreach=False)


def of_two_groups() -> TrainState:
    """Two groups with one learning rate, a tensor."""
    module = net()
    groups = [{"params": module[0].parameters()}, {"params": module[2].parameters()}]
    rate = torch.tensor(0.1, device="cpu")
    return TrainState(module, torch.optim.AdamW(groups, lr=rate, foreach=False))


def through_one_group(state: TrainState, keep: dict[str, Any], step: int) -> None:
    """A step that halves the learning rate of both groups through the first."""
    train(state, keep, step)
    state.optimizer.param_groups[0]["lr"].mul_(0.5)


class Together(torch.optim.Optimizer):
    """Counts all its parameters' steps in one dict."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        params = self.param_groups[0]["params"]
        for param in params:
            count = self.state[param].setdefault("count", self.state[params[0]].get("count", {}))
            count["steps"] = count.get("steps", 0) + 1
            param.sub_(param.grad, alpha=0.5 / count["steps"])


CASES = {
    **{f"`torch.optim.{name}`": of_torch(name) for name in of_all_torch()},
    "several optimizers": Case(two),
    "`named_parameters()` in groups": Case(
        named, more=lambda state, keep: state.optimizer.param_groups[0]["param_names"]
    ),
    "frozen parameters": Case(frozen),
    "a learning rate that is a tensor": case(tensor_lr),
    "a learning rate that is one tensor of two groups": Case(of_two_groups, through_one_group),
    "a dict that the slots of several parameters share": case(Together),
    "schedule-free: averaged weights, counts in groups": case(ScheduleFree),
    "tensors in lists, counts in dicts": case(Listed),
    "a slot of another shape than its parameter": case(Rows),
    "slots that wrap other tensors (the 8-bit states of torchao)": case(Coded),
    "counters in its own `state_dict()`": case(Warm, more=lambda opt: opt.num_steps),
    "counters by `register_state_dict_post_hook`": case(hooked, more=lambda opt: opt.tokens),
    "entries of `state` under a name": case(Loose),
    "an optimizer that holds optimizers (torchtitan's container)": case(Container, more=moments),
    "a wrapper around a base optimizer (look-ahead)": case(LookAhead, more=moments),
    "a face of an optimizer whose state is its own (accelerate's)": Case(faced),
    "`torch.amp.GradScaler`": Case(scaled, by_loss),
}
__all__ = ["CASES", "descend", "train"]
