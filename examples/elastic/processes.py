"""Processes that the demo starts, and what they say."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

EXAMPLES = Path(__file__).parent.parent
DEADLINE_S = 120.0


class Process:
    """A child that writes JSON lines to a file, which is read as it grows."""

    def __init__(self, output: Path, *command: str, **environment: str) -> None:
        self.said: list[dict[str, Any]] = []
        self.output = output
        with output.open("w") as out, output.with_suffix(".err").open("w") as errors:
            self.child = subprocess.Popen(
                [sys.executable, *command],
                stdout=out,
                stderr=errors,
                env=environment_of(**environment),
            )
        self._file: TextIO = output.open()
        self._rest = ""

    def hear(self) -> list[dict[str, Any]]:
        """All that it has said so far."""
        lines = (self._rest + self._file.read()).split("\n")
        self._rest = lines.pop()
        self.said.extend(json.loads(line) for line in lines if line.startswith("{"))
        return self.said

    def steps(self) -> list[dict[str, Any]]:
        """The steps that it has done so far."""
        return [each for each in self.hear() if each.get("kind") == "step"]

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.child.poll() is None

    def errors(self) -> str:
        """The end of what it wrote to the standard error."""
        return self.output.with_suffix(".err").read_text()[-3000:]

    def kill(self) -> None:
        """End it by SIGKILL; again is no error."""
        if self.is_running():
            self.child.kill()
        self.child.wait()


def environment_of(**more: str) -> dict[str, str]:
    """This process's environment, in which the demo's modules are found."""
    paths = [str(EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}


def wait_until(is_there: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Ask again and again; RuntimeError when it takes longer than the deadline."""
    until = time.monotonic() + deadline_s
    while not is_there():
        if time.monotonic() > until:
            raise RuntimeError(f"waited {deadline_s:.0f} s in vain for {what}; see *.err in --out")
        time.sleep(0.1)
