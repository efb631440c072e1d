"""A restart in place of a switch: a new torchrun, whose ranks load the checkpoint in the target.

Run as a program it is one rank of that torchrun.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

import dynatrain
from contenders import state_dict
from dynatrain import Layout
from stack_of_blocks import Job

#: What a rank 0 prints when all of them have their state.
LOADED = "loaded"
#: In which processes end that have said it.
END_S = 60.0


@dataclass
class Restart:
    """Starts the ranks of the target, and returns when they hold the checkpoint.

    Those of the source wait meanwhile and cost no processor time, but they have not ended.

    Args:
        job: builds both.
        target: layout of the new ranks.
        folder: the checkpoint.
    """

    job: Job
    target: str
    folder: Path
    torchruns: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self) -> None:
        """One restart; called by all ranks of the source, made by rank 0."""
        if dist.get_rank() != 0:
            return
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        torchrun += ["--nproc-per-node", str(Layout.parse(self.target).world_size), __file__]
        options = [f"--blocks={self.job.num_blocks}", f"--target={self.target}"]
        started = subprocess.Popen(
            [*torchrun, *options, f"--folder={self.folder}"],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self.torchruns.append(started)
        assert started.stdout is not None
        if not any(line.strip() == LOADED for line in started.stdout):
            raise RuntimeError(f"torchrun ended with {started.wait()} before its state was loaded")

    def end(self) -> None:
        """Waits until the new processes have ended."""
        for torchrun in self.torchruns:
            torchrun.wait(END_S)


def environment() -> dict[str, str]:
    """Of the new processes: without what the launcher of these ones has set."""
    launcher = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "GROUP_", "ROLE_", "TORCHELASTIC_")
    return {name: value for name, value in os.environ.items() if not name.startswith(launcher)}


def main() -> None:
    """One rank of the target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    job = Job(options.blocks)
    session = dynatrain.init(job.build, options.target, initialize=job.initialize, device="cpu")
    dcp.load(state_dict(session), checkpoint_id=options.folder)
    dist.barrier()
    if dist.get_rank() == 0:
        sys.stdout.write(f"{LOADED}\n")
        sys.stdout.flush()
    session.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
