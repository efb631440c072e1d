"""Private API of torch around tensors, modules and optimizers."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import _weights_only_unpickler, nn
from torch.distributed.fsdp import FSDPModule, _common_utils
from torch.distributed.fsdp._fully_shard import _fsdp_param_group
from torch.distributed.tensor import DTensor, _redistribute, debug
from torch.distributed.tensor._collective_utils import MeshTopoInfo
from torch.nn.utils import parametrizations

from dynatrain._torch_private.present import check_has

_NEEDED = (
    (torch._C, "_swap_tensor_impl"),
    (torch.UntypedStorage, "_cdata"),
    (torch._C, "_current_graph_task_id"),
    (torch._C._autograd, "_profiler_enabled"),
    (nn.Module, "_call_impl"),
    (FSDPModule, "_get_fsdp_state"),
    (_fsdp_param_group.FSDPParamGroup, "_to_sharded"),
    (_common_utils, "_is_fsdp_flattened"),
    (debug, "_clear_sharding_prop_cache"),
    (_weights_only_unpickler, "_get_allowed_globals"),
    (_weights_only_unpickler, "_get_user_allowed_globals"),
    (_redistribute, "clear_redistribute_planner_cache"),
    (_redistribute._gen_transform_infos, "cache_clear"),
    (MeshTopoInfo.build_from_mesh, "cache_clear"),
    (parametrizations, "_is_orthogonal"),
    (parametrizations, "_make_orthogonal"),
)
check_has(_NEEDED)


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The memory that this rank holds of a DTensor, no copy, no autograd; others as they are."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor.detach()


def storage_key(storage: torch.UntypedStorage) -> int:
    """What tells a storage from all others that live: its object in C++."""
    return int(storage._cdata)


def in_backward() -> bool:
    """Whether the calling thread is inside a backward pass."""
    return torch._C._current_graph_task_id() != -1


def modules_under_way() -> list[object]:
    """Modules whose calls are on the stack of this thread, the innermost first."""
    found: list[object] = []
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is nn.Module._call_impl.__code__:  # around ``forward`` and its hooks
            found.append(frame.f_locals.get("self"))
        frame = frame.f_back
    return found


def profiler_enabled() -> bool:
    """Whether a profiler of torch records the calling thread."""
    return bool(torch._C._autograd._profiler_enabled())


def _fsdp_groups(module: nn.Module) -> Iterator[Any]:
    for child in module.modules():
        if isinstance(child, FSDPModule):
            state = child._get_fsdp_state()
            groups = getattr(state, "_fsdp_param_groups", None)
            if groups is None:
                groups = [state._fsdp_param_group] if state._fsdp_param_group else []
            yield from groups


def _fsdp_params(module: nn.Module) -> Iterator[Any]:
    for group in _fsdp_groups(module):
        yield from group.fsdp_params


def padded_bytes(module: nn.Module) -> dict[int, int]:
    """Memory that ``fully_shard`` reads of each of its shards, padding included, by parameter's id.

    A shard with less room behind it is copied into other memory by ``fully_shard``.
    """
    return {
        id(each.sharded_param): each.padded_sharded_param_size.numel()
        * each.sharded_param.element_size()
        for each in _fsdp_params(module)
    }


def refresh_fsdp_memory(
    module: nn.Module, emptied: Mapping[int, tuple[torch.UntypedStorage, int]]
) -> None:
    """Makes ``fully_shard`` read its shards from the parameters' present memory.

    Storages whose keys are in ``emptied`` have the size there for a moment, one at a time.
    """
    for fsdp_param in _fsdp_params(module):
        storage = fsdp_param.sharded_param._local_tensor.untyped_storage()
        _, size_bytes = emptied.get(storage_key(storage), (storage, 0))
        if size_bytes:
            storage.resize_(size_bytes)
        _refresh(fsdp_param)
        if size_bytes:
            storage.resize_(0)


def _refresh(fsdp_param: Any) -> None:
    local = fsdp_param.sharded_param._local_tensor
    num_elems = fsdp_param.padded_sharded_param_size.numel()
    room = local.untyped_storage().nbytes() // local.element_size() - local.storage_offset()
    if local.numel() < num_elems <= room:
        # With the padding behind it: nothing is copied, and what lies over it stays there.
        fsdp_param._sharded_param_data = local.as_strided((num_elems,), (1,))
    fsdp_param.reset_sharded_param()


def is_in_flat_parameter(param: torch.Tensor) -> bool:
    """Whether a parameter is a flat one of ``FullyShardedDataParallel``, or a view into one."""
    return bool(_common_utils._is_fsdp_flattened(param))


def unsharded_fsdp_params(module: nn.Module) -> list[str]:
    """FQNs of parameters that ``fully_shard`` has gathered and not yet dropped."""
    return [
        str(getattr(fsdp_param, "_param_fqn", None) or "a parameter")
        for fsdp_param in _fsdp_params(module)
        if getattr(fsdp_param.sharded_state, "name", "SHARDED") == "UNSHARDED"
    ]


def fsdp_params_with_gradients(module: nn.Module) -> list[str]:
    """FQNs of parameters of which ``fully_shard`` holds a gradient that it has not reduced yet."""
    return [
        str(getattr(fsdp_param, "_param_fqn", None) or "a parameter")
        for fsdp_param in _fsdp_params(module)
        if getattr(fsdp_param, "unsharded_accumulated_grad", None) is not None
        or getattr(getattr(fsdp_param, "_unsharded_param", None), "grad", None) is not None
    ]


def drop_unreduced(module: nn.Module) -> None:
    """Has ``fully_shard`` drop what it has gathered, and gradients that it has not reduced."""
    for fsdp_param in _fsdp_params(module):
        if "unsharded_accumulated_grad" in vars(fsdp_param):  # up to torch 2.14
            fsdp_param.unsharded_accumulated_grad = None
        if getattr(fsdp_param, "_unsharded_param", None) is not None:
            fsdp_param._unsharded_param.grad = None
    for group in _fsdp_groups(module):
        group._to_sharded()  # reshard() leaves the root as it is behind its forward


def release_memory(module: nn.Module, spared: Collection[int] = ()) -> None:
    """Lets go of the memory of parameters and buffers, whoever still holds the module.

    ``spared`` are ids of tensors that somebody else owns as well.
    """
    for fsdp_param in _fsdp_params(module):
        fsdp_param._sharded_param_data = torch.empty(0)
        fsdp_param.all_gather_outputs = []
    with torch.no_grad():
        for param in module.parameters():
            if id(param) in spared:
                continue
            param.dynatrain_released = True  # type: ignore[attr-defined]
            if local_tensor(param).is_meta:
                continue  # of a trial: it never had memory
            if isinstance(param, DTensor):
                param._local_tensor = torch.empty_like(param._local_tensor, device="meta")
            else:
                param.data = torch.empty(0, dtype=param.dtype, device=param.device)
        for child in module.modules():
            child.__dict__["dynatrain_released"] = True
            for name, buffer in child._buffers.items():
                if buffer is not None and id(buffer) not in spared:
                    released = torch.empty_like(buffer, device="meta")
                    released.dynatrain_released = True  # type: ignore[attr-defined]
                    child._buffers[name] = released


def is_released(item: torch.Tensor | nn.Module) -> bool:
    """Whether :func:`release_memory` has let go of a tensor or a module."""
    return bool(vars(item).get("dynatrain_released", False))


def hooks_its_state_dict(optimizer: torch.optim.Optimizer) -> bool:
    """Whether hooks change what ``optimizer.state_dict()`` returns."""
    return bool(optimizer.__dict__.get("_optimizer_state_dict_post_hooks"))


def hook_steps(optimizer: torch.optim.Optimizer, hook: Callable[..., None]) -> None:
    """Calls ``hook`` before every step, where the object is more than a face of an optimizer."""
    if hasattr(optimizer, "_optimizer_step_pre_hooks"):
        optimizer.register_step_pre_hook(hook)


def hook_uses(optimizer: torch.optim.Optimizer, hook: Callable[..., None]) -> None:
    """Calls ``hook`` before every step, and before its state is read to be saved."""
    hook_steps(optimizer, hook)
    if hasattr(optimizer, "_optimizer_state_dict_pre_hooks"):
        optimizer.register_state_dict_pre_hook(hook)


def hook_behind_steps(optimizer: torch.optim.Optimizer, hook: Callable[..., None]) -> bool:
    """Calls ``hook`` behind every step; False where torch would not.

    The method ``step`` of a class calls hooks once torch has wrapped it, which the constructor of
    ``torch.optim.Optimizer`` does; some wrappers leave that out.
    """
    step = getattr(type(optimizer), "step", None)
    if not hasattr(optimizer, "_optimizer_step_post_hooks") or not hasattr(step, "hooked"):
        return False
    optimizer.register_step_post_hook(hook)
    return True


def holders_in_autograd(tensor: torch.Tensor) -> int:
    """How many graphs, nodes and views of autograd hold what the tensor object stands for."""
    return int(tensor._use_count()) - 1


def put_under(tensor: torch.Tensor, memory: torch.Tensor) -> None:
    """Makes the object ``tensor`` stand for ``memory``, a tensor that nobody else holds.

    The object stays: its class, its attributes, weak references to it, and whoever keys by it. What
    torch keeps in C++ beside the memory is carried over: hooks, their handles included, and the
    dtype of gradients. ``torch.utils.swap_tensors`` would lose all of that, and refuses an object
    with weak references.

    Raises:
        RuntimeError: C++ code holds a weak reference.
    """
    hooks, after = tensor._backward_hooks, tensor._post_accumulate_grad_hooks
    grad_dtype, requires_grad = _own_grad_dtype(tensor), tensor.requires_grad
    if isinstance(tensor, DTensor):
        assert isinstance(memory, DTensor)
        local = memory._local_tensor
        torch._C._swap_tensor_impl(tensor, memory)
        tensor._local_tensor = local
    else:
        torch._C._swap_tensor_impl(tensor, memory)
    tensor.requires_grad_(requires_grad)
    if hooks:
        tensor._backward_hooks = hooks
    if after:
        tensor._post_accumulate_grad_hooks = after
    if grad_dtype is not None:
        tensor.grad_dtype = grad_dtype[0]


def _own_grad_dtype(tensor: torch.Tensor) -> tuple[torch.dtype | None] | None:
    """The dtype that gradients were given (None for any), or None where it is the tensor's."""
    if not tensor.is_leaf:
        return None
    found: torch.dtype | None = getattr(tensor, "grad_dtype", tensor.dtype)
    is_own = getattr(tensor, "_has_grad_dtype_override", found != tensor.dtype)
    return (found,) if is_own else None


def clear_sharding_cache() -> None:
    """Forgets what DTensor knows by mesh: equal meshes pass for one, and dead ones are held."""
    debug._clear_sharding_prop_cache()  # type: ignore[no-untyped-call]
    _redistribute.clear_redistribute_planner_cache()
    _redistribute._gen_transform_infos.cache_clear()
    MeshTopoInfo.build_from_mesh.cache_clear()


@contextmanager
def orthogonal_on_meta() -> Iterator[None]:
    """Lets ``parametrizations.orthogonal`` be registered on the meta device.

    It asks whether the weight is orthogonal and makes it so, for which there are no numbers: its
    ``base`` is then missing, or the question raises. On meta only its shape and strides count.
    """
    module: Any = parametrizations
    asks, makes = module._is_orthogonal, module._make_orthogonal

    def is_orthogonal(weight: torch.Tensor, *args: Any, **kwargs: Any) -> bool:
        # A weight of random numbers is not, and gets a base of other strides.
        return not weight.is_meta and bool(asks(weight, *args, **kwargs))

    def made_orthogonal(weight: torch.Tensor) -> Any:
        if not weight.is_meta:
            return makes(weight)
        return weight.mT.contiguous().mT  # by columns, as LAPACK writes it

    module._is_orthogonal, module._make_orthogonal = is_orthogonal, made_orthogonal
    try:
        yield
    finally:
        module._is_orthogonal, module._make_orthogonal = asks, makes


def safe_globals() -> dict[str, Any]:
    """What ``torch.load(weights_only=True)`` reads by name, the script's own additions included."""
    reader: Any = _weights_only_unpickler
    return {**reader._get_allowed_globals(), **reader._get_user_allowed_globals()}


def storage_of(blob: bytes) -> Any:
    """The storage that torch has pickled as bytes of its own, read without running code."""
    return torch.load(io.BytesIO(blob), weights_only=True)
