"""What the findings of `dynatrain doctor` mean: which transports a job can use here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HOST_PARTS = ("PyTorch", "native module", "package", "torch's c10d", "Gloo between two ranks")
DEVICES = "CUDA devices"


@dataclass(frozen=True)
class Transport:
    """One way that bytes take, by its name for ``dynatrain.init(transport=...)``."""

    name: str
    usable: bool
    detail: str


#: Transport, what it does, and the probes that it stands on besides those of the host.
_WAYS = (
    ("c10d", "host memory over Gloo; a GPU's memory through the host", ()),
    ("shared_memory", "ranks of one host read each other's host memory, if they shall", ()),
    ("cuda_ipc", "ranks of one host read each other's GPU memory", (DEVICES, "CUDA IPC")),
    ("nccl", "GPU memory between hosts too", (DEVICES, "NCCL")),
)


def transports(statuses: Mapping[str, str]) -> list[Transport]:
    """Says of every transport whether it can be used, given the status of each probe by name."""
    found = []
    for name, purpose, own_parts in _WAYS:
        missing = [part for part in (*HOST_PARTS, *own_parts) if statuses[part] != "ok"]
        detail = f"it needs what is missing: {', '.join(missing)}" if missing else purpose
        found.append(Transport(name, not missing, detail))
    return found


def verdict(statuses: Mapping[str, str]) -> str:
    """Says in a sentence or two what can be done on this machine."""
    failed = [name for name, status in statuses.items() if status == "failed"]
    if failed:
        return (
            f"dynatrain cannot be relied on here: it needs {', '.join(failed)}, see above for what "
            "was found."
        )
    if statuses[DEVICES] == "ok":
        return "Everything that dynatrain needs is here. Jobs on the CPU and on a GPU can switch."
    return (
        "Everything that dynatrain needs is here. Jobs on the CPU can switch their layout; there "
        "is no GPU that a job could use. What is absent is optional."
    )
