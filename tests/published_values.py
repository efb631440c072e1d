"""What ranks publish of their states beside tensors, as a target gets it."""

from __future__ import annotations

import torch

from dynatrain.adapters.port import Part, Published
from dynatrain.adapters.torch import TorchAdapter

TORCH = TorchAdapter(torch.device("cpu"))


def published(*states):
    """What ranks with these states publish together, each distinct content once."""
    parts = {}
    for rank, state in enumerate(states):
        for name, value in TORCH.values(TORCH.inventory(state)).shared.items():
            blob = TORCH.encode(name, value)
            parts.setdefault(name, {}).setdefault(blob, []).append(rank)
    return Published(
        {
            name: [Part(TORCH.decode(blob), tuple(ranks)) for blob, ranks in blobs.items()]
            for name, blobs in parts.items()
        }
    )
