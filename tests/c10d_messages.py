"""Messages over the c10d transport, as its tests make them: memory, peers, tags, and their ends."""

from __future__ import annotations

import numpy as np
import torch.distributed as dist

#: Ten times what the pool gives a run: a wait that only this deadline ends fails with its stack.
LATE_S = 600.0


def native():
    from dynatrain import _native

    return _native


def transport_of(rank, world_size, timeout_s=LATE_S):
    return native().C10dTransport(dist.group.WORLD, rank, world_size, timeout_s)


def pattern(size, seed):
    period = (np.arange(251) * 131 + seed * 17) % 251
    return np.resize(period.astype(np.uint8), size)


def message(peer, tag, array):
    """A message names memory and does not keep it: `array` must outlive the token."""
    return (peer, tag, array.ctypes.data, array.nbytes)


def error_of(token, timeout_s=LATE_S):
    """(peer, text) of the TransportError that a token ends with; None when it ends well."""
    from dynatrain._errors import TransportError

    try:
        token.wait(timeout_s)
    except TransportError as error:
        return error.peer, str(error)
    return None
