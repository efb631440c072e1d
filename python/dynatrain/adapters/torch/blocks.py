"""Host memory that ranks of one machine read in each other's processes, cut from blocks."""

from __future__ import annotations

import torch

from dynatrain import _native

#: Tensors begin at multiples of it, as torch's own do.
_ALIGNMENT = 64


def aligned(size_bytes: int) -> int:
    """What a tensor of so many bytes takes of a block."""
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT


class Blocks:
    """Hands out storages of host memory that peers can map. A block goes with its last storage.

    Args:
        size_bytes: of the first block: what all tensors together take, :func:`aligned` each.
    """

    def __init__(self, size_bytes: int) -> None:
        self._next_bytes = size_bytes
        self._block: _native.SharedBlock | None = None
        self._used = 0

    def take(self, size_bytes: int) -> torch.UntypedStorage:
        """Zeroed memory of ``size_bytes``, more than 0. It cannot grow.

        Raises:
            MemoryError, DeviceError: the system refuses it.
        """
        block, begin = self._block, self._used
        if block is None or begin + size_bytes > block.size_bytes:
            block, begin = _native.SharedBlock(max(self._next_bytes, aligned(size_bytes))), 0
            self._block, self._next_bytes = block, 0
        self._used = begin + aligned(size_bytes)
        whole = torch.frombuffer(block, dtype=torch.uint8, offset=begin, count=size_bytes)
        return whole.untyped_storage()


def can_be_read(local: torch.Tensor) -> bool:
    """Whether peers can read the memory of a tensor where it lies."""
    return _native.SharedBlock.holds(local.untyped_storage().data_ptr())
