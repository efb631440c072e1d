"""Types of elements, precision of masters, and models that are trained in part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from dynatrain import TrainState
from what_travels.trial import Case, descend, net, sgd


def of_type(dtype: torch.dtype) -> Case:
    """A model whose parameters, and slots with them, have one type of elements."""

    def build() -> TrainState:
        module = nn.Sequential(nn.Linear(3, 4, dtype=dtype), nn.Linear(4, 2, dtype=dtype))
        return TrainState(module, sgd(module))

    def step(state: TrainState, keep: dict[str, Any], number: int) -> None:
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(number)).to(dtype)
        descend(state, lambda: state.model(inputs).abs().square().float().mean())

    return Case(build, step)


def with_buffer(dtype: torch.dtype) -> Case:
    """A model with a buffer of one type, whose bytes each step turns."""

    def build() -> TrainState:
        module = net()
        codes = torch.arange(24) % (2 if dtype == torch.bool else 24)
        module.register_buffer("codes", codes.to(torch.uint8).view(dtype))
        return TrainState(module, sgd(module))

    def step(state: TrainState, keep: dict[str, Any], number: int) -> None:
        raw = state.model.codes.view(torch.uint8)
        raw.copy_(raw.roll(number + 1))

    # As bytes: a number that is none equals nothing.
    return Case(build, step, more=lambda state, keep: state.model.codes.view(torch.uint8))


class WithMasters(torch.optim.Optimizer):
    """SGD on float32 copies of narrow parameters, which are their slots."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        super().__init__(params, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state[param]
                if not state:
                    state["master"] = param.detach().float().clone()
                state["master"].sub_(param.grad.float(), alpha=group["lr"])
                param.copy_(state["master"])


def with_masters() -> Case:
    """bfloat16 parameters, whose values are those of their masters, rounded."""

    def build() -> TrainState:
        module = net().to(torch.bfloat16)
        return TrainState(module, WithMasters(module.parameters()))

    def step(state: TrainState, keep: dict[str, Any], number: int) -> None:
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(number))
        descend(state, lambda: state.model(inputs.bfloat16()).float().square().mean())

    return Case(build, step, more=lambda state, keep: _are_rounded(state))


def _are_rounded(state: TrainState) -> list[bool]:
    optimizer = state.optimizers[0]
    return [
        torch.equal(param, optimizer.state[param]["master"].bfloat16())
        for param in state.model.parameters()
    ]


class LowRank(nn.Module):
    """A frozen layer, and a product of two thin ones beside it that are trained."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


def low_rank() -> TrainState:
    """Adapters on every layer; the optimizer knows them alone."""
    module = nn.Sequential(LowRank(nn.Linear(3, 4)), nn.Tanh(), LowRank(nn.Linear(4, 2)))
    trained = [param for param in module.parameters() if param.requires_grad]
    return TrainState(module, torch.optim.AdamW(trained, foreach=False))


PARAMETERS = (torch.bfloat16, torch.float16, torch.float64, torch.complex64)
BUFFERS = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.bool,
    torch.complex64,
)
CASES = {
    **{f"parameters and slots of `{dtype}`": of_type(dtype) for dtype in PARAMETERS},
    **{f"a buffer of `{dtype}`": with_buffer(dtype) for dtype in BUFFERS},
    "float32 masters under bfloat16 parameters": with_masters(),
    "low-rank adapters on frozen layers": Case(low_rank),
}
