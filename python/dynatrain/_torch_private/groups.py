"""Private API of torch around process groups, stores and meshes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed import ProcessGroup, device_mesh, distributed_c10d
from torch.distributed.device_mesh import DeviceMesh

from dynatrain._torch_private.per_thread import PerThread
from dynatrain._torch_private.present import check_has

check_has(
    (
        (distributed_c10d, "_get_default_store"),
        (distributed_c10d, "_process_group_name"),
        (distributed_c10d, "_new_process_group_helper"),
        (distributed_c10d, "_get_split_source"),
        (distributed_c10d, "_get_default_timeout"),
        (distributed_c10d, "_update_default_pg"),
        (distributed_c10d, "ProcessGroupGloo"),
        (distributed_c10d._World, "group_count"),
        (distributed_c10d._World, "pg_map"),
        (distributed_c10d._World, "pg_names"),
        (distributed_c10d._World, "pg_group_ranks"),
        (device_mesh, "new_group"),
        (device_mesh, "split_group"),
        (device_mesh, "get_world_size"),
        (dist, "ProcessGroupGloo"),
    )
)
#: What stands before the keys of a group's Gloo in the store that torch has of the group.
GLOO_KEYS = "cpu//"
#: Its names, which torch's stubs do not tell of.
_meshes: Any = device_mesh


@dataclass(frozen=True)
class GroupKind:
    """What a default group is made of.

    Attributes:
        backend: as ``init_process_group`` takes it, such as ``gloo`` or ``cpu:gloo,cuda:nccl``.
        device: that it is bound to, as ``device_id`` of ``init_process_group``; None for none.
    """

    backend: str
    device: torch.device | None = None


def place_in_job() -> tuple[int, int]:
    """This rank in torch's default group, and how many it has; 0 of 1 where there is none."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def session_store(rank: int) -> tuple[str, Store]:
    """A name for a session, and the job's store under a prefix of this name.

    The n-th call on each rank of one job gets the same of both.
    """
    store = PrefixStore("dynatrain", distributed_c10d._get_default_store())
    name = str(store.add(f"sessions/{rank}", 1))
    return name, PrefixStore(name, store)


def single_process_store() -> Store:
    """A store for a job of one process."""
    return HashStore()


def gloo_group(
    store: Store, rank: int, num_ranks: int, timeout: timedelta, address: str = ""
) -> Any:
    """A ``ProcessGroupGloo`` that torch neither lists nor counts; its members meet in ``store``.

    It listens on the interface of ``address``, torch's choice where it is empty. It has ``send``
    and ``recv``, of which torch's stubs say nothing.
    """
    if not address:
        return dist.ProcessGroupGloo(store, rank, num_ranks, timeout)
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    options._timeout = timeout
    options._devices = [gloo.create_device(hostname=address)]
    return gloo(store, rank, num_ranks, options)


class _IsGloo(type):
    """What stands in for torch's class is asked by other threads whether a group is one of Gloo."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, dist.ProcessGroupGloo)


#: What a deadline may lose on its way through torch, which counts milliseconds.
_ROUNDING = timedelta(milliseconds=2)
#: Makes a group of Gloo: of a store, the own rank and the number of ranks, and a deadline.
_Maker = Callable[[Store, tuple[int, int], timedelta], Any]


def _gloo_by(original: Any, maker: Callable[[], _Maker | None]) -> type:
    class ByMaker(metaclass=_IsGloo):
        def __new__(cls, store: Store, *place: Any, timeout: timedelta, **rest: Any) -> Any:
            own = maker()
            if own is None:
                return original(store, place[0], place[1], timeout=timeout, **rest)
            return own(store, (place[0], place[1]), timeout)

    return ByMaker


_gloo = PerThread(distributed_c10d, "ProcessGroupGloo", _gloo_by)
_default = PerThread(
    distributed_c10d, "_get_default_group", lambda original, own: lambda: own() or original()
)
_no_split = PerThread(
    distributed_c10d,
    "_get_split_source",
    lambda original, own: lambda *args: None if own() else original(*args),
)


@contextmanager
def gloo_by(maker: _Maker) -> Iterator[None]:
    """Has the groups of Gloo that torch makes in this thread be made by ``maker``."""
    with _gloo.wanting(maker):
        yield


def listed_group(  # noqa: PLR0913 - what the group is, and how it is made
    store: Store,
    name: str,
    ranks: list[int],
    rank: int,
    deadline: timedelta,
    default: ProcessGroup | None = None,
) -> ProcessGroup:
    """A group that its members alone make, ``rank`` among them, of the kind of a default one.

    torch lists it by ``name``, as functional collectives ask, but does not count it. ``deadline``
    is for the making; what is done over the group has the deadline of ``default``. That is the
    group which numbers the ranks, torch's default one where it is None; other threads see nothing
    of it.

    Raises:
        RuntimeError: a member did not come in time.
    """
    numbers = default or distributed_c10d._get_default_group()
    backend, _ = distributed_c10d._world.pg_map[numbers]
    with (
        _no_split.wanting(True),  # a split takes all ranks of the job
        nullcontext() if default is None else _default.wanting(default),
    ):
        group, _ = distributed_c10d._new_process_group_helper(
            len(ranks),
            ranks.index(rank),
            ranks,
            backend,
            store,
            name,  # type: ignore[arg-type]
            timeout=deadline,
            device_id=numbers.bound_device_id,
        )
    assert isinstance(group, ProcessGroup)
    distributed_c10d._world.pg_group_ranks[group] = {each: at for at, each in enumerate(ranks)}
    _wait_as_usual(group, deadline, numbers)
    return group


def group_to_be_default(
    kind: GroupKind, store: Store, name: str, place: tuple[int, int], deadline: timedelta
) -> ProcessGroup:
    """A group that can be torch's default one; :func:`take_as_default` makes it so.

    ``place`` is this rank and the number of ranks, otherwise as :func:`listed_group`.

    Raises:
        RuntimeError: a member did not come in time.
    """
    rank, num_ranks = place
    group, _ = distributed_c10d._new_process_group_helper(
        num_ranks,
        rank,
        [],  # as torch makes its default group
        kind.backend,
        store,
        name,  # type: ignore[arg-type]
        timeout=deadline,
        device_id=kind.device,
    )
    assert isinstance(group, ProcessGroup)
    distributed_c10d._world.pg_group_ranks[group] = {each: each for each in range(num_ranks)}
    _wait_as_usual(group, deadline, None)
    return group


def take_as_default(group: ProcessGroup | None) -> ProcessGroup | None:
    """Makes ``group`` torch's default one, or has none; returns the former, which stays listed."""
    former = distributed_c10d._world.default_pg
    distributed_c10d._update_default_pg(group)
    return former


@contextmanager
def default_group(group: ProcessGroup | None) -> Iterator[None]:
    """Has ``group`` be torch's default one inside; where it is None, the present one stays."""
    if group is None:
        yield
        return
    former = take_as_default(group)
    try:
        yield
    finally:
        take_as_default(former)


def parts_of_group(group: ProcessGroup, name: str) -> tuple[str, list[Any]]:
    """What a group that was made as ``name`` has for the host and for devices.

    Returns:
        What stands before the keys of its Gloo in the store that it was made in, and the backends
        that can abort what hangs in them.
    """
    return f"{name}//{GLOO_KEYS}", backends_that_abort(group)


def backends_that_abort(group: ProcessGroup) -> list[Any]:
    """The backends of a group that can end what hangs in them by themselves; Gloo cannot."""
    others = [each for each in group._device_types if each.type != "cpu"]
    backends = [group._get_backend(each) for each in others]
    return [each for each in backends if each.name() != "gloo"]


def groups_of_others(own_names: str) -> dict[str, tuple[ProcessGroup, Store]]:
    """Groups that torch lists and of which the names do not begin so, with their stores, by name.

    Keys of a group's Gloo begin with :data:`GLOO_KEYS` there.
    """
    world = distributed_c10d._world
    return {
        name: (group, world.pg_map[group][1])
        for group, name in [*world.pg_names.items()]
        if not name.startswith(own_names) and group in world.pg_map
    }


def end_group(group: ProcessGroup) -> None:
    """Takes a group from torch's list; its threads and sockets end with the last who holds it."""
    if group is distributed_c10d._world.default_pg:
        take_as_default(None)  # else torch ends all groups there are
    with suppress(Exception):  # the script has ended all groups, or a backend cannot be ended
        dist.destroy_process_group(group)


def forget_groups(mesh: DeviceMesh) -> None:
    """Has a mesh let go of its groups: torch 2.11 holds meshes that DTensors had for ever."""
    registry: dict[str, ProcessGroup] = getattr(mesh, "_pg_registry", {})
    registry.clear()


@contextmanager
def groups_of_meshes(make: Callable[[list[int]], ProcessGroup], rank: int) -> Iterator[None]:
    """Has ``make(ranks)`` make the groups that meshes of this thread need for ``rank``.

    Ranks are in the order that they have in the mesh.

    Also one of all ranks, where a mesh takes the default group otherwise.
    """
    originals = _meshes.new_group, _meshes.split_group, _meshes.get_world_size
    thread = threading.get_ident()

    def own(rows: Iterable[list[int]]) -> Any:
        mine = [row for row in rows if rank in row]
        return make([*mine[0]]) if mine else dist.GroupMember.NON_GROUP_MEMBER

    def new_group(ranks: Any = None, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread or ranks is None:
            return originals[0](ranks, *args, **kwargs)
        return own([list(ranks)])

    def split_group(parent_pg: Any = None, split_ranks: Any = None, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return originals[1](parent_pg, split_ranks, **kwargs)
        return own(split_ranks)

    def get_world_size(*args: Any) -> int:
        # More than any mesh has: one of all ranks would take the default group.
        return sys.maxsize if threading.get_ident() == thread else int(originals[2](*args))

    _meshes.new_group, _meshes.split_group = new_group, split_group
    _meshes.get_world_size = get_world_size
    try:
        yield
    finally:
        _meshes.new_group, _meshes.split_group, _meshes.get_world_size = originals


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
            _wait_as_usual(group, deadline, None)


def _wait_as_usual(group: ProcessGroup, deadline: timedelta, like: ProcessGroup | None) -> None:
    """Gives a group that was made with ``deadline`` that of ``like``, or torch's own.

    The group of all ranks has what the script gave ``init_process_group``; torch gives its default
    to every other one. A group that was made with another deadline keeps it.
    """
    name = distributed_c10d._world.pg_map[group][0]
    for device in group._device_types:
        with suppress(RuntimeError):  # a backend that tells no options keeps its own
            backend = group._get_backend(device)
            found = getattr(backend.options, "_timeout", timedelta.max)
            if abs(found - deadline) <= _ROUNDING:
                usual = distributed_c10d._get_default_timeout(name)
                backend._set_default_timeout(_timeout(like, device, usual) if like else usual)


def _timeout(group: ProcessGroup, device: torch.device, otherwise: timedelta) -> timedelta:
    """How long a group waits for what is done on ``device``."""
    with suppress(RuntimeError):
        found = getattr(group._get_backend(device).options, "_timeout", None)
        if isinstance(found, timedelta):
            return found
    return otherwise


def num_groups_named() -> int:
    """How often this rank has named a group; torch names groups of all ranks by this number."""
    return int(distributed_c10d._world.group_count)


def name_groups_from(number: int) -> None:
    """Names the next group by ``number``, which is at least ``num_groups_named()`` of any rank."""
    distributed_c10d._world.group_count = number


@contextmanager
def groups_watched(refuse: Callable[[list[int]], Exception]) -> Iterator[None]:
    """Raises what ``refuse(ranks)`` returns when this thread makes a process group, but for ours.

    Every way to a group (``new_group``, meshes and their slices) asks for its name before it talks
    to anyone, but for ``split_group`` up to torch 2.14, which looks at the device first. A mesh of
    all ranks, which would take the default group and ask for nothing, is made to ask as well.
    """
    original, thread = distributed_c10d._process_group_name, threading.get_ident()
    sized = _meshes.get_world_size

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

    def get_world_size(*args: Any) -> int:
        return sys.maxsize if threading.get_ident() == thread else int(sized(*args))

    distributed_c10d._process_group_name = name_or_refuse
    dist.split_group = distributed_c10d.split_group = split_or_refuse
    _meshes.get_world_size = get_world_size
    try:
        yield
    finally:
        distributed_c10d._process_group_name = original
        dist.split_group = distributed_c10d.split_group = split
        _meshes.get_world_size = sized
