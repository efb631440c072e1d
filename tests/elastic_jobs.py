"""Members of an elastic job as tests start them: processes that nobody has started together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
WORKER = HERE / "elastic_worker.py"


class Process:
    """A child whose lines are read as they come.

    Attributes:
        lines: what it has written so far.
    """

    def __init__(self, *command, **environment):
        self.lines = []
        self._changed = threading.Condition()
        paths = os.pathsep.join([str(HERE.parent / "python"), str(HERE)])
        self.child = subprocess.Popen(
            [sys.executable, "-u", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.child.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def told(self, kind):
        """What it has said of a kind, as JSON lines with a ``kind``."""
        with self._changed:
            said = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [each for each in said if each.get("kind") == kind]

    def wait_for(self, is_there, seconds=60):
        """Waits until ``is_there()``, asked whenever a line has come; fails with all lines."""
        until = time.monotonic() + seconds
        with self._changed:
            while not is_there():
                left = until - time.monotonic()
                ended = self.child.poll() is not None and not self._reader.is_alive()
                if left <= 0 or ended:
                    raise AssertionError("\n".join(self.lines))
                self._changed.wait(min(left, 0.5))

    def end(self, seconds=30):
        """Its exit status once it has ended by itself."""
        status = self.child.wait(seconds)
        self._reader.join(5)
        return status

    def kill(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
