"""What a switch is timed beside: the same bytes by other means, each as a call to be timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist

import dynatrain
from dynatrain import _native

Move = tuple[str, list[int], list[int], int, int]


def plan_moves(session: dynatrain.Session) -> list[Move]:
    """What this rank sends, receives and keeps in the switch that is prepared."""
    return _plan(session).moves()


def _plan(session: dynatrain.Session) -> _native.Plan:
    standing = session._part.targets.standing
    assert standing is not None
    return standing.blueprint.plan


def raw_messages(traffic: list[tuple[int, int, int]]) -> Callable[[], None]:
    """One large message per ordered pair of ranks, all posted before any is waited for."""
    rank = dist.get_rank()
    buffers = [
        (src, dst, torch.ones(size, dtype=torch.uint8))
        for src, dst, size in traffic
        if rank in (src, dst)
    ]

    def exchange() -> None:
        wait_for(
            dist.isend(data, dst) if src == rank else dist.irecv(data, src)
            for src, dst, data in buffers
        )

    return exchange


def wait_for(works: Iterable[dist.Work | None]) -> None:
    """Waits once all have been posted."""
    for work in list(works):
        assert work is not None
        work.wait()


def boxes_that_cross(
    moves: Sequence[Move], device: torch.device
) -> list[tuple[int, int, torch.Tensor]]:
    """(src, dst, memory) of each box that another rank needs."""
    return [
        (src, dst, torch.ones([e - b for b, e in zip(begin, end, strict=True)], device=device))
        for _, begin, end, src, dst in moves
        if src != dst
    ]


def per_tensor_messages(moves: Sequence[Move], device: torch.device) -> Callable[[], None]:
    """A message for each box that crosses."""
    rank = dist.get_rank()
    boxes = boxes_that_cross(moves, device)

    def exchange() -> None:
        on_host = [
            box.cpu() if src == rank else torch.empty_like(box, device="cpu")
            for src, _, box in boxes
        ]
        wait_for(
            dist.isend(data, dst) if src == rank else dist.irecv(data, src)
            for (src, dst, _), data in zip(boxes, on_host, strict=True)
        )
        if device.type != "cpu":
            for (_, dst, box), data in zip(boxes, on_host, strict=True):
                if dst == rank:
                    box.copy_(data)

    return exchange


def per_tensor_over_nccl(
    moves: Sequence[Move], device: torch.device, group: dist.ProcessGroup
) -> Callable[[], None]:
    """The same messages on the GPU's memory, posted together."""
    rank = dist.get_rank()
    operations = [
        dist.P2POp(dist.isend, box, dst, group)
        if src == rank
        else dist.P2POp(dist.irecv, box, src, group)
        for src, dst, box in boxes_that_cross(moves, device)
    ]
    return lambda: wait_for(dist.batch_isend_irecv(operations) if operations else ())


def elems_to_copy(session: dynatrain.Session, moves: Sequence[Move]) -> tuple[int, int]:
    """Elements that this rank receives, and those that it keeps at another address.

    Args:
        session: has a switch prepared.
        moves: of that switch.
    """
    adopted = set(_plan(session).adoptable())
    received, kept = 0, 0
    for name, begin, end, src, dst in moves:
        size = math.prod(e - b for b, e in zip(begin, end, strict=True))
        if src != dst == dist.get_rank():
            received += size
        elif src == dst and name not in adopted:
            kept += size
    return received, kept


def plain_copy(num_elems: int, device: torch.device) -> Callable[[], object]:
    """One copy of so many float32 within the memory of this rank."""
    numbers = torch.rand(num_elems, device=device)
    copy = torch.zeros_like(numbers)  # its pages are there before the clock runs
    return lambda: copy.copy_(numbers)


def in_turn(*works: Callable[[], object]) -> Callable[[], None]:
    """One call that makes all of them."""

    def call_all() -> None:
        for work in works:
            work()

    return call_all


def state_dict(session: dynatrain.Session) -> dict[str, torch.Tensor]:
    """Parameters and moments by name, as torch's checkpoint takes them."""
    if not session.active:
        return {}
    state = session.state
    tensors: dict[str, torch.Tensor] = {}
    for name, param in state.model.named_parameters():
        tensors[name] = param.detach()
        for slot, value in state.optimizer.state[param].items():
            tensors[f"{name}.{slot}"] = value
    return tensors
