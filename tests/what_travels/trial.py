"""One case: a job of one rank trains, switches and trains on, beside one that never switches."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

import dynatrain
from dynatrain import TrainState
from dynatrain.adapters.torch.inventory import LiveTensors
from dynatrain.adapters.torch.trees import leaves

NUM_STEPS, SWITCH_AFTER = 6, 3
TRAVELS, REFUSED, BENT = "travels", "refused", "bent"
BY_INIT = "refused by init"


@dataclass(frozen=True)
class Outcome:
    """How a case ended: a word, and why."""

    word: str
    why: str = ""


def net() -> nn.Module:
    """The model of most cases."""
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def train(state: TrainState, keep: dict[str, Any], step: int) -> None:
    """A step on inputs that are a function of the step."""
    del keep
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
    descend(state, lambda: state.model(inputs).square().mean())


def descend(state: TrainState, loss: Callable[[], torch.Tensor]) -> None:
    """One step of every optimizer, which may ask for the loss again, and of every scheduler."""

    def closure() -> torch.Tensor:
        for optimizer in state.optimizers:
            optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    value = closure()
    for optimizer in state.optimizers:
        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)
        else:
            optimizer.step()
        optimizer.zero_grad()
    for name, scheduler in state.stateful_objects():
        if name.startswith("scheduler"):
            measured = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            scheduler.step(*([value.detach()] if measured else []))


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    """An optimizer with slots."""
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, foreach=False)


@dataclass(frozen=True)
class Case:
    """Something a job may have.

    Attributes:
        build: makes the state in every layout; it is given the world where it asks for it.
        step: one step of the training.
        keep: makes what is kept.
        more: what else is to be the same at the end.
    """

    build: Callable[..., TrainState]
    step: Callable[[TrainState, dict[str, Any], int], None] = train
    keep: Callable[[], dict[str, Any]] = dict
    more: Callable[[TrainState, dict[str, Any]], object] = lambda state, keep: None

    def in_world(self, world: dynatrain.World) -> TrainState:
        """The state as ``build`` makes it."""
        return self.build(world) if "world" in signature(self.build).parameters else self.build()


@dataclass
class _Run:
    case: Case
    refusal: Exception | None = None
    has_begun: bool = False
    whole_only: bool = False
    end: list[Any] = field(default_factory=list)

    def go(self, *, switch: bool) -> _Run:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        keep = self.case.keep()
        try:
            session = dynatrain.init(self.case.in_world, "dp=1", keep=keep, timeout_s=20)
        except dynatrain.Error as error:
            self.refusal = error
            dist.destroy_process_group()
            return self
        self.has_begun = True
        try:
            for step in range(NUM_STEPS):
                if switch and step == SWITCH_AFTER:
                    self._switch(session)
                self.case.step(session.state, keep, step)
            self.end = _read(session.state, self.case.more(session.state, keep))
        finally:
            session.close()
            dist.destroy_process_group()
        return self

    def _switch(self, session: dynatrain.Session) -> None:
        values = LiveTensors(session.state).values
        self.whole_only = any(tensor.numel() > 1 for _, tensor in leaves(list(values.values())))
        try:
            session.switch("dp=1")
        except dynatrain.Error as error:
            self.refusal = error


def _read(state: TrainState, more: object) -> list[Any]:
    """What a state is at the end: all that its modules, optimizers and objects hand over."""
    out: list[Any] = [more]
    for module in state.modules:
        out += [*module.named_parameters(), *module.named_buffers()]
    for optimizer in state.optimizers:
        groups = optimizer.param_groups
        out += [[optimizer.state.get(param) for param in group["params"]] for group in groups]
        out += [{k: v for k, v in optimizer.state.items() if isinstance(k, str)}]
        out += [{k: v for k, v in group.items() if k != "params"} for group in groups]
    return out + [item.state_dict() for _, item in state.stateful_objects()]


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        pairs = zip(first, second, strict=False)
        return len(first) == len(second) and all(_same(a, b) for a, b in pairs)
    if isinstance(first, np.ndarray):
        return bool(np.array_equal(first, second))
    if callable(first):
        return first.__qualname__ == second.__qualname__
    return bool(first == second)


@cache
def tried(case: Case) -> Outcome:
    """Trains with and without a switch, and says how the two compare."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, switched = _Run(case).go(switch=False), _Run(case).go(switch=True)
    if not _same(plain.end, switched.end):
        return Outcome(BENT, "differs from the job that never switched")
    if switched.refusal is not None:
        lines = [line.strip() for line in str(switched.refusal).splitlines()]
        word = REFUSED if switched.has_begun else BY_INIT
        return Outcome(word, f"{lines[0].split(': ', 1)[1]}; {lines[-1]}")
    return Outcome(TRAVELS, "while parameters stay whole" if switched.whole_only else "")
