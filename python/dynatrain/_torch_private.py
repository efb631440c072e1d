"""Every private torch API that dynatrain uses, in one place, checked when this file is imported."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed import ProcessGroup, distributed_c10d
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, debug
from torch.nn.utils import parametrizations

_NEEDED = (
    (torch._C, "_swap_tensor_impl"),
    (torch._C, "_current_graph_task_id"),
    (torch._C._autograd, "_profiler_enabled"),
    (FSDPModule, "_get_fsdp_state"),
    (distributed_c10d, "_get_default_store"),
    (distributed_c10d, "_process_group_name"),
    (distributed_c10d, "_get_default_timeout"),
    (distributed_c10d._World, "group_count"),
    (distributed_c10d._World, "pg_map"),
    (debug, "_clear_sharding_prop_cache"),
    (dist, "ProcessGroupGloo"),
    (parametrizations, "_is_orthogonal"),
    (parametrizations, "_make_orthogonal"),
)
for _owner, _name in _NEEDED:
    if not hasattr(_owner, _name):
        raise ImportError(
            f"dynatrain: torch {torch.__version__} has no {_owner.__name__}.{_name}\n"
            "  expected torch 2.11 to 2.15\n  install one of these versions"
        )

#: Groups that only their members made, by default group and ranks: equal on every member.
_num_local_groups: WeakKeyDictionary[ProcessGroup, Counter[str]] = WeakKeyDictionary()


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The memory that this rank holds of a DTensor, no copy, no autograd; others as they are."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor.detach()


def in_backward() -> bool:
    """Whether the calling thread is inside a backward pass."""
    return torch._C._current_graph_task_id() != -1


def profiler_enabled() -> bool:
    """Whether a profiler of torch records the calling thread."""
    return bool(torch._C._autograd._profiler_enabled())


def _fsdp_params(module: nn.Module) -> Iterator[Any]:
    for child in module.modules():
        if isinstance(child, FSDPModule):
            state = child._get_fsdp_state()
            groups = getattr(state, "_fsdp_param_groups", None)
            if groups is None:
                groups = [state._fsdp_param_group] if state._fsdp_param_group else []
            for group in groups:
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


def refresh_fsdp_memory(module: nn.Module) -> None:
    """Makes ``fully_shard`` read its shards from the parameters' present memory."""
    for fsdp_param in _fsdp_params(module):
        local = fsdp_param.sharded_param._local_tensor
        num_elems = fsdp_param.padded_sharded_param_size.numel()
        room = local.untyped_storage().nbytes() // local.element_size() - local.storage_offset()
        if local.numel() < num_elems <= room:
            # With the padding behind it: nothing is copied, and what lies over it stays there.
            fsdp_param._sharded_param_data = local.as_strided((num_elems,), (1,))
        fsdp_param.reset_sharded_param()


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


def place_in_job() -> tuple[int, int]:
    """This rank in torch's default group, and how many it has; 0 of 1 where there is none."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def session_store(rank: int) -> Store:
    """The job's store under a prefix of its own for every session of the job.

    The n-th call on each rank of one job gets the same prefix.
    """
    store = PrefixStore("dynatrain", distributed_c10d._get_default_store())
    return PrefixStore(str(store.add(f"sessions/{rank}", 1)), store)


def single_process_store() -> Store:
    """A store for a job of one process."""
    return HashStore()


def gloo_group(store: Store, rank: int, num_ranks: int, timeout: timedelta) -> Any:
    """A ``ProcessGroupGloo`` that torch neither lists nor counts; its members meet in ``store``.

    It has ``allgather``, ``broadcast``, ``send`` and ``recv``, of which torch's stubs say nothing.
    """
    return dist.ProcessGroupGloo(store, rank, num_ranks, timeout)


def new_group(ranks: list[int]) -> None:
    """Takes part in ``dist.new_group`` of other ranks, as all ranks of a job have to."""
    dist.new_group(ranks)


def new_local_group(ranks: list[int], timeout: timedelta) -> ProcessGroup:
    """``dist.new_group`` that only the members call, this rank among them."""
    with _name_of_local_group(ranks):
        group = dist.new_group(ranks, timeout, use_local_synchronization=True)
    assert isinstance(group, ProcessGroup)
    return group


@contextmanager
def _name_of_local_group(ranks: list[int]) -> Iterator[None]:
    """Names the next group by its ranks and how often these ranks made one.

    torch salts such names with counts that differ between members once groups with other members
    were made (up to 2.14), or moves the count that names groups of all ranks on the members alone
    (2.15). Either way ranks would wait for each other under two names.
    """
    counts = _num_local_groups.setdefault(distributed_c10d._get_default_group(), Counter())
    members = hashlib.sha256(repr(ranks).encode()).hexdigest()[:16]
    name = f"dynatrain_{members}_{counts[members]}"
    counts[members] += 1
    original = distributed_c10d._process_group_name
    distributed_c10d._process_group_name = lambda *_, **__: name  # type: ignore[assignment]
    try:
        yield
    finally:
        distributed_c10d._process_group_name = original


@contextmanager
def group_making(deadline: timedelta) -> Iterator[None]:
    """Lets groups that are made inside wait ``deadline`` for their members, not half an hour.

    It is for their making alone: when this ends, what is done over them has torch's default again.
    Groups with a timeout of their own keep it.
    """
    milliseconds = deadline // timedelta(milliseconds=1)  # as C++ keeps it
    deadline = timedelta(milliseconds=max(1, milliseconds))
    world, original = distributed_c10d._world, distributed_c10d._get_default_timeout
    before = set(world.pg_map)
    distributed_c10d._get_default_timeout = lambda backend: deadline
    try:
        yield
    finally:
        distributed_c10d._get_default_timeout = original
        for group in set(world.pg_map) - before:
            name = world.pg_map[group][0]
            for device in group._device_types:
                with suppress(RuntimeError):  # a backend that tells no options keeps its own
                    backend = group._get_backend(device)
                    if getattr(backend.options, "_timeout", None) == deadline:
                        backend._set_default_timeout(original(name))


def num_groups_named() -> int:
    """How often this rank has named a group; torch names groups of all ranks by this number."""
    return int(distributed_c10d._world.group_count)


def name_groups_from(number: int) -> None:
    """Names the next group by ``number``, which is at least ``num_groups_named()`` of any rank."""
    distributed_c10d._world.group_count = number


def hooks_its_state_dict(optimizer: torch.optim.Optimizer) -> bool:
    """Whether hooks change what ``optimizer.state_dict()`` returns."""
    return bool(optimizer.__dict__.get("_optimizer_state_dict_post_hooks"))


def hook_steps(optimizer: torch.optim.Optimizer, hook: Callable[..., None]) -> None:
    """Calls ``hook`` before every step, where the object is more than a face of an optimizer."""
    if hasattr(optimizer, "_optimizer_step_pre_hooks"):
        optimizer.register_step_pre_hook(hook)


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


@contextmanager
def groups_watched(refuse: Callable[[list[int]], Exception]) -> Iterator[None]:
    """Raises what ``refuse(ranks)`` returns when this thread makes a process group, but for ours.

    Every way to a group (``new_group``, meshes and their slices) asks for its name before it talks
    to anyone, but for ``split_group`` up to torch 2.14, which looks at the device first.
    """
    original, thread = distributed_c10d._process_group_name, threading.get_ident()

    def name_or_refuse(ranks: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread:
            raise refuse(list(ranks))
        return original(ranks, *args, **kwargs)

    split = distributed_c10d.split_group

    def split_or_refuse(
        parent_pg: Any = None, split_ranks: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if threading.get_ident() == thread:
            raise refuse(sorted({rank for ranks in split_ranks or () for rank in ranks}))
        return split(parent_pg, split_ranks, *args, **kwargs)

    distributed_c10d._process_group_name = name_or_refuse
    dist.split_group = distributed_c10d.split_group = split_or_refuse
    try:
        yield
    finally:
        distributed_c10d._process_group_name = original
        dist.split_group = distributed_c10d.split_group = split


def clear_sharding_cache() -> None:
    """Forgets sharding propagation results, which name meshes by equality, not identity."""
    debug._clear_sharding_prop_cache()  # type: ignore[no-untyped-call]


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
