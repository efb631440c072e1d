"""The ledger of a coordinator that has a disk to come back to: a file of SQLite."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from dynatrain._errors import TransportError

_TABLE = "CREATE TABLE IF NOT EXISTS records (number INTEGER PRIMARY KEY, line TEXT NOT NULL)"


class SqliteLedger:
    """Records of one job in a file that one coordinator has open.

    Args:
        path: of an SQLite file, made where there is none; ``:memory:`` keeps nothing.

    Raises:
        TransportError: the file cannot be opened or written; so from ``append``.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = path
        try:
            if not str(path):
                raise ValueError("no file is named")  # SQLite would take one that nobody finds
            self._file = sqlite3.connect(path, isolation_level=None, timeout=1)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=FULL")
            self._file.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._file.execute("BEGIN IMMEDIATE")  # takes the lock that EXCLUSIVE keeps
            self._file.execute(_TABLE)
            self._file.execute("COMMIT")
        except (sqlite3.Error, ValueError) as error:
            raise self._unusable(error) from error

    def lines(self) -> list[str]:
        """All records, in the order in which they were appended."""
        try:
            found = self._file.execute("SELECT line FROM records ORDER BY number")
            return [str(line) for (line,) in found]
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def check(self) -> None:
        """Nobody else can have the file as long as this one has it open."""

    def append(self, line: str) -> None:
        """Puts a record on disk."""
        try:
            self._file.execute("INSERT INTO records (line) VALUES (?)", (line,))
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Lets go of the file; another coordinator may open it then."""
        self._file.close()

    def _unusable(self, error: Exception) -> TransportError:
        return TransportError(
            f"elastic: the coordinator's ledger {self._path} cannot be used: {error}\n"
            "  expected a file that no other coordinator has open, on a disk with room\n"
            "  nothing was told to any member that is not on disk\n"
            "  end the other coordinator, or give --ledger another path",
            retryable=False,
        )
