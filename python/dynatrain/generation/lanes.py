"""The ways that bytes take: a transport and an executor for each kind of memory."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import torch

from dynatrain import _native, by_rank
from dynatrain._errors import DeviceError, Error, TransportError, is_refused, of_family
from dynatrain._limits import room_for_groups
from dynatrain.generation.control import Control, attempt, in_words
from dynatrain.generation.members import Members
from dynatrain.generation.nodes import network_space, numbered

HOST, DEVICE = "host", "device"
#: How memory travels; "auto" takes the fastest for device memory that works on all ranks.
TRANSPORTS = ("auto", "cuda_ipc", "nccl", "c10d", "shared_memory")
#: Messages of a pair and stage that may lie in tensors themselves, without staging.
_DIRECT_MESSAGES = 8
#: Either makes NCCL take several ranks on one GPU (the first one from 2.30 on).
_SHARED_GPU = ("NCCL_MULTI_RANK_GPU_ENABLE", "NCCL_HOSTID")
_log = logging.getLogger("dynatrain.session")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Nccl:
    """NCCL with settings of its own, for ``transport=`` of ``dynatrain.init``; equal on all ranks.

    Attributes:
        register_staging: staging is memory that NCCL reads and writes without a copy of its own.
            Off by default: what it is worth has not been measured on a GPU.
    """

    register_staging: bool = False


@dataclass(frozen=True)
class Lane:
    """The way of all tensors in one kind of memory: a transport and the executor over it.

    Attributes:
        name: of the transport: ``cuda_ipc``, ``nccl``, ``c10d`` or ``shared_memory``.
        transport: the union communicator.
        executor: runs schedules over it.
        max_direct: messages per pair and stage that may lie in tensors themselves.
        reads_in_place: whether ranks of some machine read each other's memory where it lies; equal
            on all ranks.
    """

    name: str
    transport: _native.Transport
    executor: _native.Executor
    max_direct: int
    reads_in_place: bool = False


#: A lane, and what keeps ranks from reading in place over it; empty where nothing does.
_InPlace = tuple[Lane, str]
_Connect = Callable[[Lane, list[int]], _InPlace]


def take_device(device: torch.device, rank: int) -> torch.device:
    """Returns the device with its index, and makes a GPU the process's current one.

    FSDP2, ``DeviceMesh`` and ``"cuda"`` without an index mean the current GPU; a mesh that finds
    none chosen takes the one numbered LOCAL_RANK, which may be another one or none at all.

    Raises:
        DeviceError: this build of dynatrain does not move such memory, or there is no such GPU.
    """
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise _unusable(device, "dynatrain moves host memory and memory of CUDA devices")
    problem = _native.cuda_problem()
    if problem:
        raise _unusable(device, problem)
    index = _own_gpu(rank) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise _unusable(
            torch.device("cuda", index), f"this process sees {torch.cuda.device_count()} GPUs"
        )
    torch.cuda.set_device(index)
    torch.cuda.init()  # type: ignore[no-untyped-call] # a mesh looks whether that was done
    return torch.device("cuda", index)


def _own_gpu(rank: int) -> int:
    """The GPU that the script has chosen, else the one numbered LOCAL_RANK, else by rank."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.current_device()
    local_rank = os.environ.get("LOCAL_RANK", "")
    if local_rank.isdecimal():
        return int(local_rank)
    return rank % max(torch.cuda.device_count(), 1)


def _unusable(device: torch.device, problem: str) -> DeviceError:
    return DeviceError(
        f"session: {device} cannot be used: {problem}\n"
        "  nothing was started\n"
        "  give dynatrain.init another device=, run `dynatrain doctor`, or train on the CPU "
        "(device='cpu')"
    )


def check_transport(transport: str | Nccl, device: torch.device) -> None:
    """Raises DeviceError when a transport was asked for that carries no memory of the device."""
    wanted = transport if isinstance(transport, str) else "nccl"
    if wanted == "shared_memory" and device.type != "cpu":
        raise DeviceError(
            f"session: transport={wanted!r} moves host memory, and the session's device "
            f"is {device}\n"
            "  nothing was started\n"
            "  give dynatrain.init device='cpu', or leave transport out"
        )
    if wanted in ("nccl", "cuda_ipc") and device.type != "cuda":
        raise DeviceError(
            f"session: transport={wanted!r} moves device memory, and the session's device "
            f"is {device}\n"
            "  nothing was started\n  give dynatrain.init a CUDA device, or leave transport out"
        )


def _made(control: Control, make: Callable[[], _T]) -> _T:
    """What ``make`` returned; when it fails on one rank, every rank raises. Collective."""
    made, error = attempt(make)
    if isinstance(error, RuntimeError) and not isinstance(error, Error):
        error = unconnected(error, control.num_ranks, control.timeout)
    control.agree("connecting the ranks", error, None)
    return made  # type: ignore[return-value]


def unconnected(error: RuntimeError, num_ranks: int, timeout: timedelta) -> Error:
    """What an error in the making of groups is to the caller: Gloo's have no class of their own."""
    if is_refused(error):
        return of_family(error, "connecting the ranks")
    seconds = timeout.total_seconds()
    made = TransportError(
        f"session: the groups of the library could not be made: {in_words(error, seconds)}\n"
        f"  expected all {num_ranks} ranks to come within {seconds:g} s (timeout_s)\n"
        "  nothing was moved; the source state is intact\n"
        "  see the output of the other ranks; if all are alive, call again"
    )
    made.__cause__ = error
    return made


class LaneMaker:
    """Makes the lanes of a generation, again after a failure.

    Args:
        members: of the generation; all of them call :meth:`make`.
        device: where parameters live.
        transport: one of TRANSPORTS, or NCCL with settings of its own, that carries memory of the
            device: see :func:`check_transport`.
        timeout: deadline of every wait.
        num_threads: threads that copy host memory.
    """

    def __init__(
        self,
        members: Members,
        device: torch.device,
        transport: str | Nccl,
        timeout: timedelta,
        num_threads: int,
    ) -> None:
        own = transport if isinstance(transport, Nccl) else Nccl()
        self._members = members
        self._device = device
        self._wanted = transport if isinstance(transport, str) else "nccl"
        self._register_staging = own.register_staging
        self._timeout = timeout
        self._num_threads = num_threads
        self.host_copier: _native.Copier | None = None
        self.device_copier: _native.Copier | None = None
        self._connection = ""
        self._opened: list[_native.Transport] = []  #: since the making of lanes began

    def make(self, control: Control, connection: str) -> dict[str, Lane]:
        """The lanes by kind of memory; ``connection`` tells them from former ones. Collective.

        Where it raises, what was made before is aborted.

        Raises:
            DeviceError: a copier cannot be made, or a rank cannot use the transport that was asked
                for.
            TransportError: the ranks cannot be connected. Either is the same on every rank.
        """
        self._connection = connection
        try:
            return self._made_lanes(control)
        except BaseException:
            for transport in self._opened:
                transport.abort("the lanes could not all be made")
            raise
        finally:
            self._opened.clear()

    def _made_lanes(self, control: Control) -> dict[str, Lane]:
        with ExitStack() as made:
            # The others would wait in the making of a group.
            _, error = attempt(lambda: self._make_copiers(made.enter_context))
            control.agree("making the copiers", error, None)
            lanes = {HOST: self._host_in_place(control, _made(control, self._host_lane))}
            if self.device_copier is not None:
                messages = self._nccl_lane(control) or _made(control, self._staged_lane)
                lanes[DEVICE] = self._device_in_place(control, messages)
                _log.info("device memory travels over %s", lanes[DEVICE].name)
            return lanes

    def room(self, *, connected: bool) -> AbstractContextManager[None]:
        """Room for what is to be made, for as long as it is.

        Not collective. ``connected`` is whether the control groups stand already. Raises OSError or
        RuntimeError where the system has none.
        """
        groups = 2 if self._device.type == "cuda" or self._wanted == "shared_memory" else 1
        return room_for_groups(*[self._members.num_ranks] * (groups + (not connected)))

    def _make_copiers(self, enter: Callable[[AbstractContextManager[None]], None]) -> None:
        enter(self.room(connected=True))
        if self.host_copier is None:
            self.host_copier = _native.CpuCopier(self._num_threads)
        if self.device_copier is None and self._device.type == "cuda":
            self.device_copier = _native.CudaCopier(self._device.index)

    def _host_lane(self) -> Lane:
        """Host memory, over a Gloo group of its own."""
        assert self.host_copier is not None
        transport = self._noted(self._c10d(HOST))
        executor = _native.Executor(transport, self.host_copier)
        return Lane("c10d", transport, executor, _DIRECT_MESSAGES)

    def _host_in_place(self, control: Control, messages: Lane) -> Lane:
        """Host memory that ranks of one machine read where it lies, if they shall.

        Of one network, too: files are handed over by sockets, which other containers do not reach.
        """
        if self._wanted != "shared_memory":
            return messages
        spaces = control.gather(network_space(), "connecting the ranks")
        places = numbered([*zip(self._members.node_of_rank, spaces, strict=True)])
        lane, problem = self._in_place(control, messages, places, self._shared_memory)
        if problem:
            raise _not_to_be_had(self._wanted, problem)
        return lane

    def _device_in_place(self, control: Control, messages: Lane) -> Lane:
        """Device memory that ranks of one machine read where it lies, where they can and shall."""
        if self._wanted in ("nccl", "c10d"):
            return messages
        lane, problem = self._in_place(
            control, messages, self._members.node_of_rank, self._cuda_ipc
        )
        if problem and self._wanted == "cuda_ipc":
            raise _not_to_be_had(self._wanted, problem)
        if problem:
            _log.info("ranks do not read each other's device memory:\n%s", problem)
        return lane

    def _in_place(
        self, control: Control, messages: Lane, nodes: list[int], connect: _Connect
    ) -> _InPlace:
        """A lane whose ranks read each other's memory on each node where all of its ranks can.

        With what keeps the others from it. Collective: between nodes, moves go by messages.
        """
        num_on = Counter(nodes)
        if max(num_on.values()) == 1:
            return messages, ""
        ranks = [rank for rank, node in enumerate(nodes) if node == nodes[self._members.rank]]
        lane, problem = _made(control, lambda: connect(messages, ranks))
        beside = [num_on[node] for node in nodes]
        works, lines = control.agree(
            "connecting the ranks", None, problem, lambda told: _on_machines(beside, told)
        )
        return replace(lane, reads_in_place=True) if works else messages, lines

    def _shared_memory(self, messages: Lane, ranks: list[int]) -> _InPlace:
        """The lane, and what keeps the ranks of this machine from it."""
        assert self.host_copier is not None
        store = self._fresh_store(f"shared_memory/{ranks[0]}")
        seconds = self._timeout.total_seconds()
        connection = _native.connect_shared_memory(messages.transport, store, ranks, seconds)
        transport = self._noted(connection.transport)
        executor = _native.Executor(transport, self.host_copier)
        lane = Lane("shared_memory", transport, executor, messages.max_direct)
        return lane, connection.report.problem

    def _staged_lane(self) -> Lane:
        """Device memory through pinned staging: Gloo reads no other."""
        assert self.device_copier is not None
        transport = self._noted(self._c10d(DEVICE))
        return Lane("c10d", transport, _native.Executor(transport, self.device_copier), 0)

    def _noted(self, transport: _native.Transport) -> _native.Transport:
        """The same, which ends where a later lane cannot be made."""
        self._opened.append(transport)
        return transport

    def _c10d(self, kind: str) -> _native.Transport:
        rank, num_ranks = self._members.rank, self._members.num_ranks
        group = self._members.group(f"{self._connection}/{kind}", self._timeout)
        return _native.C10dTransport(group, rank, num_ranks, self._timeout.total_seconds())

    def _nccl_lane(self, control: Control) -> Lane | None:
        """None when a rank cannot take part and nobody insists."""
        if self._wanted == "c10d":
            return None
        obstacle = self._agreed(control, _nccl_obstacle(control, self._device))
        lane = None
        if obstacle is None:
            lane, error = attempt(self._nccl)
            obstacle = self._agreed(control, None if error is None else str(error))
        if obstacle is None:
            return lane
        if lane is not None:
            lane.transport.abort("another rank has no NCCL communicator")
        if self._wanted == "nccl":
            raise _not_to_be_had("nccl", str(obstacle))
        _log.warning("messages go through the host, as there is no NCCL:\n%s", obstacle)
        return None

    def _cuda_ipc(self, messages: Lane, ranks: list[int]) -> _InPlace:
        """As :meth:`_shared_memory`, for memory of devices."""
        assert self.device_copier is not None
        connection = _native.connect_cuda_ipc(
            messages.transport,
            self._fresh_store(f"cuda_ipc/{ranks[0]}"),
            ranks,
            self._device.index,
            self._timeout.total_seconds(),
        )
        transport = self._noted(connection.transport)
        executor = _native.Executor(transport, self.device_copier)
        lane = Lane("cuda_ipc", transport, executor, messages.max_direct)
        return lane, connection.report.problem

    def _fresh_store(self, purpose: str) -> _native.Store:
        """A store that no earlier attempt has written to."""
        return _native.TorchStore(self._members.store_of(f"{self._connection}/{purpose}"))

    def _nccl(self) -> Lane:
        assert self.device_copier is not None
        store = self._fresh_store("nccl")
        seconds = self._timeout.total_seconds()
        place = (self._members.rank, self._members.num_ranks)
        made = _native.NcclTransport(
            *place, store, self._device.index, seconds, register_staging=self._register_staging
        )
        transport = self._noted(made)
        executor = _native.Executor(transport, self.device_copier)
        return Lane("nccl", transport, executor, _DIRECT_MESSAGES)

    @staticmethod
    def _agreed(control: Control, obstacle: str | None) -> str | None:
        """What stands in the way of any rank, or None."""
        found = control.gather(obstacle, "connecting the ranks")
        told = {rank: text for rank, text in enumerate(found) if text is not None}
        return by_rank.lines(told) or None


def _on_machines(num_beside: Sequence[int], problems: Sequence[str]) -> tuple[bool, str]:
    """Whether ranks of any machine read in place, and what keeps others that are not alone."""
    told = {rank: text for rank, text in enumerate(problems) if text and num_beside[rank] > 1}
    works = any(num > 1 and not text for num, text in zip(num_beside, problems, strict=False))
    return works, by_rank.lines(told)


def _not_to_be_had(transport: str, obstacle: str) -> DeviceError:
    return DeviceError(
        f"session: transport={transport!r} cannot be had\n{obstacle}\n"
        "  nothing was moved\n"
        "  run `dynatrain doctor` there, or let transport='auto' choose"
    )


def _nccl_obstacle(control: Control, device: torch.device) -> str | None:
    """Why this rank cannot take part in a communicator, as far as it shows before one is made."""
    own, error = attempt(lambda: str(torch.cuda.get_device_properties(device).uuid))
    gpus = control.gather(own, "connecting the ranks")
    if error is not None:
        return str(error)
    sharing = [rank for rank, gpu in enumerate(gpus) if gpu == own]
    if len(sharing) > 1 and not any(name in os.environ for name in _SHARED_GPU):
        return f"ranks {sharing} share one GPU"
    report, error = attempt(_native.nccl_report)
    return str(error) if report is None else report.problem or None
