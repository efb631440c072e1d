"""Private API of torch around ``ZeroRedundancyOptimizer``."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import Optimizer

from dynatrain._torch_private.present import check_has, check_names

#: Its names, of which torch's stubs do not tell the private ones.
_Zero: Any = ZeroRedundancyOptimizer
check_has(((_Zero, "_init_local_optimizer"), (_Zero, "_sync_param_groups")))
check_names(
    _Zero.__init__,
    ("_default_device", "_overlap_with_ddp", "parameters_as_bucket_view", "process_group"),
)
check_names(_Zero._init_local_optimizer, ("optim",))


def own_part(optimizer: Optimizer) -> Optimizer | None:
    """The optimizer that has the slots of this rank's parameters; None where nothing is divided.

    Its groups have the options of the whole's, which torch copies at the head of every step.
    """
    if not isinstance(optimizer, ZeroRedundancyOptimizer):
        return None
    part = getattr(optimizer, "optim", None)
    return part if isinstance(part, Optimizer) else None


def is_divided(optimizer: object) -> bool:
    """Whether an optimizer divides its slots among ranks by whole parameters."""
    return isinstance(optimizer, ZeroRedundancyOptimizer)


def divides_among_all(optimizer: Optimizer) -> bool:
    """Whether it does so among all ranks of the job, as it does where it was given no group."""
    group = optimizer.process_group  # type: ignore[attr-defined]
    return group is None or group is dist.group.WORLD


def lays_out_anew(optimizer: Optimizer) -> str:
    """The option by which it keeps parameters in memory of its own; empty for none."""
    if optimizer._overlap_with_ddp:  # type: ignore[attr-defined]
        return "overlap_with_ddp"
    if optimizer.parameters_as_bucket_view:  # type: ignore[attr-defined]
        return "parameters_as_bucket_view"
    return ""


def send_from(optimizer: Optimizer, device: torch.device) -> None:
    """Has it send from ``device`` what is no parameter; it noted where these lay at first."""
    if isinstance(optimizer, _Zero):
        optimizer._default_device = device
