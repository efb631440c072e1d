"""Starts a program once per rank of this machine: gpu_ranks.py <ranks> <program> <arguments>.

What torchrun sets is set, and {rank} in a variable's value is the rank's number: NCCL_HOSTID must
differ between ranks that share a GPU. Nothing is looked up by the machine's own name, which may not
resolve where there is no network. One rank that fails ends the others.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time


def environment(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    """Variables of one rank."""
    mine = {
        name: value.replace("{rank}", str(rank))
        for name, value in os.environ.items()
        if name.startswith(("NCCL_", "PYTORCH_"))
    }
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(num_ranks))
    ranks = dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
    return (
        dict(os.environ)
        | mine
        | sizes
        | ranks
        | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    )


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> int:
    """Returns the first exit status that is not 0, or 0."""
    num_ranks, program = int(sys.argv[1]), sys.argv[2:]
    port = free_port()
    ranks = [
        subprocess.Popen([sys.executable, *program], env=environment(rank, num_ranks, port))
        for rank in range(num_ranks)
    ]
    try:
        while any(rank.poll() is None for rank in ranks):
            failed = [rank.returncode for rank in ranks if rank.poll()]
            if failed:
                return int(failed[0])
            time.sleep(0.05)
        return next((rank.returncode for rank in ranks if rank.returncode), 0)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


if __name__ == "__main__":
    sys.exit(main())
