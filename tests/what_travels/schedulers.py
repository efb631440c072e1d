"""Learning rate schedulers: all of torch, nested ones, several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import lr_scheduler as lr
from torch.optim.swa_utils import SWALR

from dynatrain import TrainState
from what_travels.trial import Case, net, sgd

_Make = Callable[[torch.optim.Optimizer], Any]
OF_TORCH: dict[str, _Make] = {
    "LambdaLR": lambda o: lr.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: lr.MultiplicativeLR(o, lambda epoch: 0.9),
    "StepLR": lambda o: lr.StepLR(o, 2),
    "MultiStepLR": lambda o: lr.MultiStepLR(o, [2, 4]),
    "ConstantLR": lambda o: lr.ConstantLR(o, total_iters=4),
    "LinearLR": lambda o: lr.LinearLR(o, total_iters=4),
    "ExponentialLR": lambda o: lr.ExponentialLR(o, 0.9),
    "SequentialLR": lambda o: lr.SequentialLR(
        o, [lr.LinearLR(o, total_iters=2), lr.CosineAnnealingLR(o, 5)], [2]
    ),
    "PolynomialLR": lambda o: lr.PolynomialLR(o, total_iters=5),
    "CosineAnnealingLR": lambda o: lr.CosineAnnealingLR(o, 5),
    "ChainedScheduler": lambda o: lr.ChainedScheduler(
        [lr.ConstantLR(o, total_iters=3), lr.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lr.ReduceLROnPlateau(o, patience=0, threshold=0.5),
    "CyclicLR": lambda o: lr.CyclicLR(o, 0.01, 0.1, step_size_up=2, cycle_momentum=True),
    "CosineAnnealingWarmRestarts": lambda o: lr.CosineAnnealingWarmRestarts(o, 2),
    "OneCycleLR": lambda o: lr.OneCycleLR(o, 0.1, total_steps=9),
}


def of_all_torch() -> list[str]:
    """Classes of torch.optim.lr_scheduler."""
    return sorted(
        name
        for name, kind in vars(lr).items()
        if isinstance(kind, type)
        and issubclass(kind, lr.LRScheduler)
        and name not in ("LRScheduler", "_LRScheduler")
    )


def case(make: _Make) -> Case:
    """A case for what makes a scheduler, or several, of an optimizer."""

    def build() -> TrainState:
        module = net()
        optimizer = sgd(module)
        return TrainState(module, optimizer, make(optimizer))

    return Case(build)


CASES = {
    **{f"`lr_scheduler.{name}`": case(OF_TORCH[name]) for name in of_all_torch()},
    "`swa_utils.SWALR`": case(lambda o: SWALR(o, swa_lr=0.05, anneal_epochs=4)),
    "several schedulers": case(lambda o: [lr.StepLR(o, 2), lr.ExponentialLR(o, 0.9)]),
}
