"""Process groups that carry the tensors of a GPU through host memory, over Gloo.

For ranks that share a GPU, which NCCL may refuse. Gloo alone takes device memory in some operations
and not in others: not in the sends and receives of a pipeline.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch._C import _distributed_c10d as c10d
from torch.distributed.distributed_c10d import _world

BACKEND = "through_host"
Copies = list[tuple[Tensor, Tensor]]


class Received:
    """Work that is done once Gloo is, and then puts what has arrived where it belongs."""

    def __init__(self, work: Any, arrived: Copies) -> None:
        self._work, self._arrived = work, arrived

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Wait for Gloo; the copies to the device are in order on the current stream."""
        done = self._work.wait() if timeout is None else self._work.wait(timeout)
        put_back(self._arrived)
        self._arrived = []
        return bool(done)

    def is_completed(self) -> bool:
        """Whether `wait` would return at once."""
        return bool(self._work.is_completed())


class ThroughHost(dist.ProcessGroup):
    """Every collective ends before its call returns; sends and receives end when waited for.

    Operations whose names changed between torch 2.11 and 2.15 have both.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        self._gloo = dist.ProcessGroupGloo(store, rank, size, timeout)
        self._name = ""

    def getBackendName(self) -> str:  # noqa: N802 - torch's name
        """What torch asks a group for."""
        return BACKEND

    @property
    def group_name(self) -> str:
        """The name under which torch has registered the group; asked once more when it ends."""
        self._name = str(_world.pg_names.get(self, self._name))
        return self._name

    def _get_backend(self, device: torch.device) -> Any:
        return self._gloo

    def _run(
        self, names: Sequence[str], outputs: Any, inputs: Sequence[Any], options: Any
    ) -> dist.Work:
        """Run what Gloo calls one of `names` on host copies; None for `inputs`: in place."""
        call: Callable[..., Any] = next(
            getattr(self._gloo, n) for n in names if hasattr(self._gloo, n)
        )
        host = on_host(outputs)
        call(host, *(on_host(given) for given in inputs), options).wait()
        put_back(list(zip(flat(outputs), flat(host), strict=True)))
        return ended()

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> dist.Work:
        """In place."""
        return self._run(["allreduce"], tensors, (), opts or c10d.AllreduceOptions())

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any = None) -> dist.Work:
        """In place, one after the other: they may differ in type."""
        options = c10d.AllreduceOptions()
        if opts is not None:
            options.reduceOp = opts.reduceOp
        return [self.allreduce([tensor], options) for tensor in tensors][-1]

    def broadcast(self, tensors: list[Tensor], opts: Any = None) -> dist.Work:
        """In place."""
        return self._run(["broadcast"], tensors, (), opts or c10d.BroadcastOptions())

    def allgather(
        self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None
    ) -> dist.Work:
        """One tensor a rank."""
        return self._run(["allgather"], outputs, (inputs,), opts or c10d.AllgatherOptions())

    def all_gather_single(self, output: Tensor, given: Tensor, opts: Any = None) -> dist.Work:
        """All ranks' tensors in one."""
        names = ["all_gather_single", "_allgather_base"]
        return self._run(names, output, (given,), opts or c10d.AllgatherOptions())

    def all_gather_single_coalesced(
        self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None
    ) -> dist.Work:
        """One after the other."""
        pairs = zip(outputs, inputs, strict=True)
        return [self.all_gather_single(*pair, opts) for pair in pairs][-1]

    def reduce_scatter_single(self, output: Tensor, given: Tensor, opts: Any = None) -> dist.Work:
        """This rank's part of the reduced tensor."""
        names = ["reduce_scatter_single", "_reduce_scatter_base"]
        return self._run(names, output, (given,), opts or c10d.ReduceScatterOptions())

    def reduce_scatter_single_coalesced(
        self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None
    ) -> dist.Work:
        """One after the other."""
        pairs = zip(outputs, inputs, strict=True)
        return [self.reduce_scatter_single(*pair, opts) for pair in pairs][-1]

    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced

    def send(self, tensors: list[Tensor], rank: int, tag: int = 0) -> Any:
        """The copy is made at once; the tensors may change before the work ends."""
        return Received(self._gloo.send(on_host(tensors), rank, tag), [])

    def recv(self, tensors: list[Tensor], rank: int, tag: int = 0) -> Any:
        """The tensors have their new values after the wait."""
        host = on_host(tensors)
        work = self._gloo.recv(host, rank, tag)
        return Received(work, list(zip(tensors, host, strict=True)))

    def barrier(self, opts: Any = None) -> dist.Work:
        """Gloo's own."""
        self._gloo.barrier(c10d.BarrierOptions()).wait()
        return ended()


def ended() -> dist.Work:
    """Work that is done. Its result is empty: a future of the host takes no tensor of a GPU."""
    done: torch.futures.Future[None] = torch.futures.Future()
    done.set_result(None)
    return c10d._create_work_from_future(done)


def on_host(tensors: Any) -> Any:
    """Copies in host memory of a tensor, or of lists of them."""
    if isinstance(tensors, Tensor):
        return tensors.detach().to("cpu", copy=True).contiguous()
    return [on_host(tensor) for tensor in tensors]


def flat(tensors: Any) -> list[Tensor]:
    """The tensors of nested lists in their order."""
    if isinstance(tensors, Tensor):
        return [tensors]
    return [tensor for part in tensors for tensor in flat(part)]


def put_back(copies: Copies) -> None:
    """Write each second tensor into the first."""
    with torch.no_grad():
        for place, value in copies:
            place.detach().copy_(value)


def register() -> None:
    """Make `through_host` a backend of torch.distributed; again is no error."""
    if BACKEND not in dist.Backend.backend_list:
        dist.Backend.register_backend(BACKEND, ThroughHost, devices=["cpu", "cuda"])
