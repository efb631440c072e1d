"""Modules: hooks, parametrizations, recurrent layers, wrappers, averages of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn import utils
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dynatrain import TrainState
from what_travels.trial import Case, descend, net, sgd, train


def case(make: Callable[[], nn.Module], **options: Any) -> Case:
    """A case for a model."""

    def build() -> TrainState:
        module = make()
        return TrainState(module, sgd(module))

    return Case(build, **options)


class Largest(nn.Linear):
    """Divides by the largest of its last inputs, kept behind torch's hook."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.history: list[float] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.history = [*self.history[-2:], float(x.detach().abs().max())]
        return super().forward(x / max(self.history))

    def get_extra_state(self) -> Any:
        return {"history": self.history}

    def set_extra_state(self, state: Any) -> None:
        self.history = state["history"]


def with_forward_hook() -> nn.Module:
    """A hook that build registers."""
    module = net()
    module[1].register_forward_hook(lambda mod, args, out: out * 2)
    return module


def normed() -> nn.Module:
    """Statistics of batches."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def tied() -> nn.Module:
    """One weight in two places."""
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    return module


def changed(change: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    """A model with something done to its first layer."""

    def make() -> nn.Module:
        module = net()
        change(module[0])
        return module

    return make


class Shadow:
    """A moving average by name."""

    def __init__(self, module: nn.Module) -> None:
        self.shadow = {name: p.detach().clone() for name, p in module.named_parameters()}

    def update_parameters(self, module: nn.Module) -> None:
        for name, param in module.named_parameters():
            self.shadow[name].lerp_(param.detach(), 0.5)

    def state_dict(self) -> dict[str, Any]:
        return {"shadow": self.shadow}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.shadow = state_dict["shadow"]


class ListShadow(Shadow):
    """A moving average in the order of the parameters."""

    def __init__(self, module: nn.Module) -> None:
        self.shadow = [p.detach().clone() for p in module.parameters()]  # type: ignore[assignment]

    def update_parameters(self, module: nn.Module) -> None:
        for mean, param in zip(self.shadow, module.parameters(), strict=True):
            mean.lerp_(param.detach(), 0.5)  # type: ignore[attr-defined]


class CopyingShadow(Shadow):
    """Hands copies out and copies in place when it loads: on meta that is nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {f"mean of {name}": mean.clone() for name, mean in self.shadow.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, mean in self.shadow.items():
            mean.copy_(state_dict[f"mean of {name}"])


def averaged(make: Callable[[nn.Module], Any]) -> Case:
    """A case for an average that is an extra."""

    def build() -> TrainState:
        module = net()
        return TrainState(module, sgd(module), extra={"ema": make(module)})

    def step(state: TrainState, keep: dict[str, Any], number: int) -> None:
        train(state, keep, number)
        state.extra["ema"].update_parameters(state.model)  # type: ignore[attr-defined]

    return Case(build, step)


def kept_average() -> Case:
    """A case for an average that is kept."""

    def build() -> TrainState:
        torch.manual_seed(0) if not torch.empty(0).is_meta else None
        module = net()
        return TrainState(module, sgd(module))

    def step(state: TrainState, keep: dict[str, Any], number: int) -> None:
        train(state, keep, number)
        keep["ema"].update_parameters(state.model)

    return Case(
        build, step, lambda: {"ema": Shadow(net())}, lambda state, keep: keep["ema"].state_dict()
    )


def wrapped(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    """A model behind a wrapper."""
    return lambda: wrap(net())


def step_of_ddp(state: TrainState, keep: dict[str, Any], step: int) -> None:
    """A step through the wrapper's own forward."""
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
    descend(state, lambda: state.model(inputs).square().mean())


class Recurrent(nn.Module):
    """A recurrent layer, and a linear one behind it."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(3, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x)[0])


def masked_gradient() -> nn.Module:
    """Rows that stand still, by a hook on the tensor."""
    module = net()
    module[0].weight.register_hook(lambda grad: grad * torch.tensor([[1.0], [0.0], [1.0], [0.0]]))
    return module


def stepped_in_backward() -> TrainState:
    """An optimizer of one parameter that runs as soon as its gradient is there."""
    module = net()
    weight = module[2].weight
    others = [param for param in module.parameters() if param is not weight]
    early = torch.optim.SGD([weight], lr=0.1, momentum=0.9, foreach=False)

    def step(param: torch.Tensor) -> None:
        early.step()
        early.zero_grad()

    weight.register_post_accumulate_grad_hook(step)
    return TrainState(module, [torch.optim.SGD(others, lr=0.1, foreach=False), early])


class ExpertParameter(nn.Parameter):
    """A parameter of a class of its own."""


def classed(layer: nn.Module) -> None:
    """Gives the weight a class, and a mark that the class reads."""
    layer.weight = ExpertParameter(layer.weight.detach())
    layer.weight.is_expert = True  # type: ignore[union-attr]


def main_grad() -> nn.Module:
    """A tensor of its shape on every parameter."""
    module = net()
    for param in module.parameters():
        param.main_grad = torch.zeros_like(param)  # type: ignore[attr-defined]
    return module


def step_with_main_grad(state: TrainState, keep: dict[str, Any], step: int) -> None:
    """A step of torch's optimizer and one of a momentum that hangs on the parameters."""
    train(state, keep, step)
    with torch.no_grad():
        for param in state.model.parameters():
            param.main_grad.lerp_(param, 0.5)
            param.sub_(0.01 * param.main_grad)


def grown() -> nn.Module:
    """A buffer that each step makes longer."""
    module = net()
    module.register_buffer("seen", torch.zeros(0))
    return module


def step_that_grows(state: TrainState, keep: dict[str, Any], step: int) -> None:
    """A step that keeps its number."""
    train(state, keep, step)
    state.model.seen = torch.cat([state.model.seen, torch.tensor([float(step)])])


def changed_by_script(change: Callable[[nn.Module], object]) -> Case:
    """A case for something that the script does to its first layer after the first step."""

    def step(state: TrainState, keep: dict[str, Any], number: int) -> None:
        train(state, keep, number)
        if number == 0:
            change(state.model[0])

    return case(net, step=step)


CASES = {
    "`nn.RNN`": case(lambda: Recurrent(nn.RNN)),
    "`nn.LSTM`": case(lambda: Recurrent(nn.LSTM)),
    "`nn.GRU`": case(lambda: Recurrent(nn.GRU)),
    "`utils.weight_norm`, the older form": case(changed(utils.weight_norm)),
    "`utils.spectral_norm`, the older form": case(changed(utils.spectral_norm)),
    "`utils.prune`": case(changed(lambda m: prune.identity(m, "weight"))),
    "a hook on a parameter that `build` registers (`register_hook`)": case(masked_gradient),
    "an optimizer in the backward pass that `build` registers "
    "(`register_post_accumulate_grad_hook`)": Case(stepped_in_backward),
    "a class of parameters, and what it carries": case(
        changed(classed),
        more=lambda state, keep: [
            type(state.model[0].weight).__name__,
            state.model[0].weight.is_expert,
        ],
    ),
    "`param.main_grad`": case(main_grad, step=step_with_main_grad),
    "a buffer that steps make longer": case(grown, step=step_that_grows),
    "`get_extra_state`, `set_extra_state`": case(
        lambda: nn.Sequential(Largest(), nn.Tanh(), Largest()),
        more=lambda state, keep: [state.model[n].history for n in (0, 2)],
    ),
    "forward hooks that `build` registers": case(with_forward_hook),
    "a forward hook that the script registers in training": changed_by_script(
        lambda layer: layer.register_forward_hook(lambda module, args, out: out * 2)
    ),
    "a hook on a parameter that the script registers in training": changed_by_script(
        lambda layer: layer.weight.register_hook(lambda grad: grad * 2)
    ),
    "a layer that the script freezes in training": changed_by_script(
        lambda layer: layer.requires_grad_(False)
    ),
    "`nn.BatchNorm1d`": case(normed),
    "tied weights": case(tied),
    "`parametrizations.weight_norm`": case(changed(parametrizations.weight_norm)),
    "`parametrizations.orthogonal`": case(changed(parametrizations.orthogonal)),
    "`parametrizations.spectral_norm`": case(changed(parametrizations.spectral_norm)),
    "`DistributedDataParallel`": case(
        wrapped(nn.parallel.DistributedDataParallel), step=step_of_ddp
    ),
    "`torch.compile`": case(wrapped(lambda m: torch.compile(m, backend="eager"))),
    "activation checkpointing": case(wrapped(checkpoint_wrapper)),
    "`AveragedModel` as extra": averaged(AveragedModel),
    "`AveragedModel` with a moving average as extra": averaged(
        lambda m: AveragedModel(m, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    ),
    "an average by parameters' names as extra": averaged(Shadow),
    "an average in a list as extra": averaged(ListShadow),
    "an average that hands out copies and loads in place": averaged(CopyingShadow),
    "an average that is kept": kept_average(),
}

NOTES = """
What `build` registers is there in every layout; over hooks that a script registers later, a switch
is refused ([what to do](../guide/README.md#what-build-makes-again)). Under `fully_shard`, torch
itself runs no hook of a parameter's `register_hook`: take `register_post_accumulate_grad_hook`,
which it runs. Nor does it let `AveragedModel` copy the model; an average by parameters' names,
which is made of its DTensors, goes with every layout.
"""
