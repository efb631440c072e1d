"""What wraps a model in a way that no build can: refused with what works in its place."""

from __future__ import annotations

from traceback import walk_tb

import torch
from torch.distributed.fsdp import FullyShardedDataParallel

from dynatrain._errors import LayoutError
from dynatrain._torch_private.tensors import is_in_flat_parameter
from dynatrain.adapters.torch.names import clean_fqn
from dynatrain.train_state import TrainState

_DDP = torch.nn.parallel.DistributedDataParallel
_FLATTENING = "FullyShardedDataParallel"


def of_a_wrapper(error: Exception) -> LayoutError | None:
    """What is said in place of an error that a wrapper's constructor raised; None for others."""
    if _came_from(error, _DDP):
        return _wrapped_by_ddp(error)
    if _came_from(error, FullyShardedDataParallel):
        return _flattened(f"session: build wraps a model in {_FLATTENING}: {_first_line(error)}")
    return None


def check_built(state: TrainState) -> None:
    """Raises LayoutError where a build has laid parameters out in flat ones."""
    found = _flat_one(state)
    if found:
        raise _flattened(
            f"session: build wraps a model in {_FLATTENING}: {found!r} is a part of a flat one"
        )


def check_unwrapped(state: TrainState) -> None:
    """Raises LayoutError where parameters of a state were laid out in flat ones since it was built.

    A part of one looks like a whole parameter of another shape, and parts that are equally long
    like replicas.
    """
    found = _flat_one(state)
    if found:
        raise _flattened(f"adapters: {found!r} is a part of a flat parameter of {_FLATTENING}")


def _flat_one(state: TrainState) -> str:
    for lead, module in state.named_modules():
        for name, param in module.named_parameters():
            if is_in_flat_parameter(param):
                return clean_fqn(lead + name).replace("_fsdp_wrapped_module.", "")
    return ""


def _flattened(refused: str) -> LayoutError:
    return LayoutError(
        f"{refused}\n"
        "  expected plain parameters or DTensors: the wrapper cuts one flat parameter for many, "
        "which it makes in memory, while build runs under the meta device\n"
        "  nothing was switched; the source state is intact\n"
        '  take fully_shard(model, mesh=world.mesh["dp_shard"]) in build, which cuts each by itself'
    )


def _came_from(error: Exception, wrapper: type) -> bool:
    """Whether an error came out of the constructor of a wrapper."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return any(
        frame.f_code.co_name == "__init__" and isinstance(frame.f_locals.get("self"), wrapper)
        for frame in frames
    )


def _wrapped_by_ddp(error: Exception) -> LayoutError:
    return LayoutError(
        f"session: build wraps a model in DistributedDataParallel: {_first_line(error)}\n"
        "  expected the plain model: the wrapper talks to all replicas when it is made, and others "
        "are training\n"
        "  nothing was switched; the source state is intact\n"
        "  return the plain model, and wrap session.state.model in on_world() of a kept object, "
        "as docs/guide/ddp.md does"
    )


def _first_line(error: Exception) -> str:
    return str(error).removeprefix("session: ").partition("\n")[0]
