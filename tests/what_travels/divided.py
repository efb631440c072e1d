"""What torch itself divides among ranks beside ``fully_shard``; a job of one rank has one part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.optim import ZeroRedundancyOptimizer

import dynatrain
from dynatrain import TrainState
from what_travels.trial import Case, net, sgd


def zero(
    kind: type[torch.optim.Optimizer] = torch.optim.AdamW,
    given: Callable[[Any], dict[str, Any]] = lambda group: {"process_group": group},
    **defaults: Any,
) -> Case:
    """A case for an optimizer that is divided among the replicas of a world."""

    def build(world: dynatrain.World) -> TrainState:
        module: nn.Module = net()
        group = world.mesh_over("dp_replicate").get_group()
        options: dict[str, Any] = {**given(group), "foreach": False, **defaults}
        optimizer = ZeroRedundancyOptimizer(module.parameters(), kind, lr=0.02, **options)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        return TrainState(module, optimizer, scheduler)

    return Case(build, more=lambda state, keep: list(state.optimizer.optim.state.values()))


def flat() -> TrainState:
    """FSDP1, whose wrapper makes memory for what it flattens."""
    cpu = torch.device("cpu")
    module = FullyShardedDataParallel(
        net(),
        use_orig_params=True,
        device_id=cpu,
        param_init_fn=lambda each: each.to_empty(device=cpu, recurse=False),
    )
    return TrainState(module, sgd(module))


CASES = {
    "`ZeroRedundancyOptimizer` of `AdamW`": zero(),
    "`ZeroRedundancyOptimizer` of `SGD` with momentum": zero(torch.optim.SGD, momentum=0.9),
    "`ZeroRedundancyOptimizer(parameters_as_bucket_view=True)`": zero(
        given=lambda group: {"process_group": group, "parameters_as_bucket_view": True}
    ),
    "`ZeroRedundancyOptimizer(overlap_with_ddp=True)`": zero(
        given=lambda group: {"process_group": group, "overlap_with_ddp": True}
    ),
    "`ZeroRedundancyOptimizer` without `process_group`": zero(given=lambda group: {}),
    "`FullyShardedDataParallel` (FSDP1)": Case(flat),
}
