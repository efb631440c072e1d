"""The folder of a job's checkpoints: which are whole, and how one comes to be or goes."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from dynatrain._errors import LayoutError
from dynatrain.elastic.checkpoint_files import INDEX, METADATA

_WHOLE = re.compile(r"step-([1-9][0-9]{0,17}|0)")
_PARTIAL = ".partial-"
#: As many stay: the newest may turn out to be damaged.
_KEPT = 2


class CheckpointFolder:
    """Checkpoints of one job, each in a folder ``step-<version>`` that is whole or absent.

    What is on its way, or on its way out, has another name. A folder of such a name that the
    library has not written is never touched, and its version is never written.

    Args:
        path: of the folder, on a file system of all members.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def of(self, version: int) -> Path:
        """Where the checkpoint of a version is, if there is one."""
        return self.path / f"step-{version}"

    def partial(self, version: int, name: str) -> Path:
        """Where it is while it is written; ``name`` tells worlds apart."""
        return self.path / f"{_PARTIAL}{version}-{name}"

    @property
    def versions(self) -> list[int]:
        """Of those that were written whole, newest first; none where the folder cannot be read."""
        try:
            return self.find()
        except OSError:
            return []

    def find(self) -> list[int]:
        """As ``versions``; raises OSError where a folder that is there cannot be read."""
        try:
            names = [each.name for each in self.path.iterdir()]
        except FileNotFoundError:
            return []
        found = (int(match[1]) for name in names if (match := _WHOLE.fullmatch(name)))
        return sorted((each for each in found if self._is_own(self.of(each))), reverse=True)

    def check_unused(self) -> None:
        """Raises LayoutError where checkpoints are there, as a world begins without a state."""
        if found := self.find():
            raise LayoutError(
                f"checkpoint: {self.path} has a checkpoint after {found[0]} steps, and this job "
                "begins at step 0\n"
                "  expected none, as nobody found one when the members joined\n"
                "  nothing was started, and the checkpoints are as they were\n"
                "  start the members again to go on from it, or give this job a checkpoint_dir of "
                "its own"
            )

    def begin(self, version: int, name: str) -> Path:
        """Makes room for one. Raises OSError."""
        path = self.partial(version, name)
        self.path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def commit(self, partial: Path, version: int) -> None:
        """Has one be there that is whole on disk, and the last few alone beside it.

        Raises:
            OSError: the system refuses it, or something else has the name; nothing has it then.
        """
        _sync(partial)
        partial.rename(self.of(version))
        _sync(self.path)
        for each in [each for each in self.versions if each <= version][_KEPT:]:
            self._remove(self.of(each))

    def give_up(self, partial: Path) -> None:
        """Removes what is not whole, as far as the system lets it."""
        shutil.rmtree(partial, ignore_errors=True)

    def sweep(self, version: int) -> None:
        """Removes what was left half, and what lies behind a version with which a world begins."""
        for each in self.versions:
            if each > version:
                self._remove(self.of(each))
        with suppress(OSError):
            for path in self.path.iterdir():
                if path.name.startswith(_PARTIAL):
                    self.give_up(path)

    def _remove(self, path: Path) -> None:
        """Removes a whole one; from the first moment on it is none."""
        aside = self.path / f"{_PARTIAL}of-{path.name}"
        with suppress(OSError):
            self.give_up(aside)
            path.rename(aside)
            self.give_up(aside)

    @staticmethod
    def _is_own(path: Path) -> bool:
        return (path / INDEX).is_file() and (path / METADATA).is_file()


def _sync(folder: Path) -> None:
    """Has the names in a folder be on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
