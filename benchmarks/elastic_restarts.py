"""The restarting contender as a user has it: torchrun starts all processes, and ends them."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from elastic.processes import DEADLINE_S, Process, wait_until
from elastic.restarts import Launcher, free_port
from elastic.story import Training


class Torchrun(Launcher):
    """Starts all processes of a job by one torchrun for each world.

    Args:
        folder: of checkpoints and outputs.
        training: as in the other runs.
        until: steps after which it ends.
        every: steps between two checkpoints.
    """

    def __init__(self, folder: Path, training: Training, until: int, every: int) -> None:
        super().__init__(folder, training, until, every)
        folder.mkdir(parents=True)

    def start(self, layout: str, size: int) -> None:
        """Start the processes of one world; all of them write to one file."""
        (self.folder / "stop").unlink(missing_ok=True)
        number = len(self.starts)
        command = ["-m", "torch.distributed.run", "--nproc-per-node", str(size)]
        command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
        command += ["-m", "elastic.restarted", *self.options(layout, number)]
        self.starts.append([Process(self.folder / f"start-{number}.jsonl", *command)])

    def lose_one(self) -> None:
        """Kill one process, of which torchrun hears and ends the others, and itself."""
        torchrun = self.starts[-1][0]
        os.kill(torchrun.steps()[-1]["pid"], signal.SIGKILL)
        wait_until(lambda: not torchrun.is_running(), "torchrun's end")

    def kill(self) -> None:
        """End all that still runs."""
        if self.starts:
            end(self.starts[-1][0])


def end(torchrun: Process) -> None:
    """Ends a torchrun by SIGTERM, which it passes on; killed, it would leave its children."""
    if torchrun.is_running():
        torchrun.child.terminate()
        with suppress(subprocess.TimeoutExpired):
            torchrun.child.wait(DEADLINE_S)
    torchrun.kill()
