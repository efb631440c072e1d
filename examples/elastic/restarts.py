"""The usual way: at every event all processes end, and new ones load a checkpoint."""

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .processes import Process, wait_until
from .story import LAYOUTS, Event, Training


@dataclass(frozen=True)
class Due:
    """An event that comes after a step."""

    event: Event
    step: int


class Launcher:
    """Starts all processes of a job and ends them, as torchrun does (whose own start is not here).

    Args:
        folder: of checkpoints and outputs.
        training: as in the other runs.
        until: steps after which it ends.
        every: steps between two checkpoints.
    """

    def __init__(self, folder: Path, training: Training, until: int, every: int) -> None:
        self.folder, self.training, self.until, self.every = folder, training, until, every
        self.starts: list[list[Process]] = []

    def start(self, layout: str, size: int) -> None:
        """Start the processes of one world."""
        (self.folder / "stop").unlink(missing_ok=True)
        number = len(self.starts)
        command = ["-m", "elastic.restarted", *self.options(layout, number)]
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.starts.append(
            [
                Process(
                    self.folder / f"start-{number}-rank-{rank}.jsonl",
                    *command,
                    RANK=str(rank),
                    WORLD_SIZE=str(size),
                    **place,
                )
                for rank in range(size)
            ]
        )

    def options(self, layout: str, number: int) -> list[str]:
        """Of each process of a start."""
        where = ["--folder", str(self.folder), f"--layout={layout}", f"--world={number}"]
        until = [f"--until={self.until}", f"--every={self.every}"]
        return [*self.training.options(), *where, *until]

    def await_step(self, number: int) -> None:
        """Wait until the present processes have done a step."""
        ranks = self.starts[-1]

        def is_done() -> bool:
            self.check()
            return any(step["step"] >= number for step in ranks[0].steps())

        wait_until(is_done, f"step {number} of start {len(self.starts) - 1}")

    def check(self) -> None:
        """RuntimeError if a process has failed."""
        for process in self.starts[-1]:
            if process.child.poll() not in (None, 0):
                raise RuntimeError(process.errors())

    def stop(self) -> None:
        """Have the present processes write a checkpoint and end."""
        (self.folder / "stop").touch()
        self.end()

    def end(self) -> None:
        """Wait until the present processes end by themselves."""
        wait_until(lambda: not any(each.is_running() for each in self.starts[-1]), "their end")
        self.check()

    def lose_one(self) -> None:
        """Kill one process, and the others as a launcher does that has seen it end."""
        last = self.starts[-1][-1]
        last.kill()
        self.kill()

    def kill(self) -> None:
        """End all that still runs."""
        for process in self.starts[-1] if self.starts else []:
            if process.is_running():
                process.child.kill()
        for process in self.starts[-1] if self.starts else []:
            process.kill()

    def said(self) -> list[dict[str, Any]]:
        """All that all processes have said."""
        return [said for ranks in self.starts for process in ranks for said in process.hear()]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def run(
    launcher: Launcher, events: Sequence[Due], tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Train while all happens at its step; returns all that was said."""
    sizes = {layout: size for size, layout in LAYOUTS.items()}
    try:
        size = launcher.training.size
        launcher.start(LAYOUTS[size], size)
        for each in events:
            launcher.await_step(each.step)
            begin = time.monotonic()
            if each.event.kind.is_loss:
                launcher.lose_one()
            else:
                launcher.stop()
            launcher.start(each.event.layout, sizes[each.event.layout])
            launcher.await_step(0)
            tell(f"{each.event.kind.words}: trains again after {time.monotonic() - begin:.1f} s")
        launcher.end()
    finally:
        launcher.kill()
    return launcher.said()
