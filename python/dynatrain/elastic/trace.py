"""Traces: what went into a machine of the protocol and what it did, to be looked at and run again.

A file begins with a line of JSON that tells how the machine began; the others are those of
membership/trace.hpp. A process that is started again with the same file writes behind it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynatrain import _native
from dynatrain._errors import Error, LayoutError
from dynatrain.elastic.json_text import value_of
from dynatrain.given import first_line, shown, whole

_log = logging.getLogger("dynatrain.elastic")
#: Times up to here, as the lines of a trace may have: sums of a few of them fit 64 bits.
_LAST_MS = 1 << 53
Machine = _native.MembershipCoordinator | _native.MembershipWorker


def traced(path: Path | None, kind: str, **begins: Any) -> tuple[Any, Trace]:
    """A machine that begins so, ``coordinator`` or ``worker``, and its trace.

    Nothing is traced where there is no ``path``.

    Raises:
        LayoutError: the file cannot be written, or the machine refuses how it is to begin.
    """
    machine = _machine(kind, begins)
    return machine, Trace(machine, path, json.dumps({"machine": kind, "begins": begins}))


class Trace:
    """Writes what a machine does, whole events at a time: a process may be killed at any moment.

    Not thread-safe, as the machine is not.

    Args:
        machine: to which nothing has happened yet.
        path: None where nothing is to be written.
        begins: the first line.
    """

    def __init__(self, machine: Machine, path: Path | None, begins: str) -> None:
        self._machine = machine
        self._path = path
        if path is not None:
            try:
                self._append(path, begins + "\n")
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                raise LayoutError(
                    f"elastic: cannot write a trace to {path}: {why}\n"
                    "  expected a file that can be made or written\n  nothing was started\n"
                    "  name another file, or leave it out"
                ) from error
            machine.trace(is_on=True)

    def write(self) -> None:
        """Writes what has happened since the last call; the job goes on where that fails."""
        if self._path is None:
            return
        try:
            self._append(self._path, self._machine.take_trace())
        except OSError as error:
            _log.warning("the trace ends, as %s cannot be written: %s", self._path, error)
            self._machine.trace(is_on=False)
            self._path = None

    @staticmethod
    def _append(path: Path, text: str) -> None:
        with path.open("ab", buffering=0) as file:
            file.write(text.encode())


@dataclass(frozen=True)
class Difference:
    """Where a machine does something else than its trace says.

    Attributes:
        line: of the file, from 1 on.
        expected: what stands there; empty where the trace has no further action.
        got: what the machine does; empty where it does nothing more.
    """

    line: int
    expected: str
    got: str


def replay(path: Path) -> Difference | None:
    """Gives what a file tells to fresh machines; None where they do what it says.

    Raises:
        OSError: the file cannot be read.
        LayoutError: it is no trace; names the line, that of an event counted from the line with
            which its machine begins.
    """
    for begin, machine, lines in _parts(path):
        found = machine.replay(lines)
        if found is not None:
            line, expected, got = found
            return Difference(begin + line, expected, got)
    return None


def _parts(path: Path) -> Iterator[tuple[int, Machine, str]]:
    """Each machine of a file, as it begins: the number of its first line, it, what happened."""
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    begins = [at for at, line in enumerate(lines) if line.startswith("{")]
    if begins[:1] != [0]:
        raise _no_trace(path, 1, "no machine begins there")
    for begin, end in zip(begins, [*begins[1:], len(lines)], strict=True):
        yield begin + 1, _begun(path, begin + 1, lines[begin]), "".join(lines[begin + 1 : end])


def _begun(path: Path, number: int, line: str) -> Machine:
    try:
        read = value_of(line)
        now_ms = whole(read["begins"]["now_ms"])
        if now_ms is None or not 0 <= now_ms <= _LAST_MS:
            raise ValueError(f"{shown(now_ms)} is no time in ms")
        return _machine(read["machine"], read["begins"])
    except Error:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _no_trace(path, number, first_line(error)) from error


def _no_trace(path: Path, number: int, why: str) -> LayoutError:
    return LayoutError(
        f"elastic: cannot read line {number} of the trace {path}: {why}\n"
        "  expected a line of JSON that tells how a machine of this version begins\n"
        "  the machines before it were run\n"
        "  name a file that this version of dynatrain has written"
    )


def _machine(kind: str, begins: dict[str, Any]) -> Machine:
    if kind == "coordinator":
        layouts = [(str(layout), int(ranks)) for layout, ranks in begins["layouts"]]
        return _native.MembershipCoordinator(**{**begins, "layouts": layouts})
    if kind == "worker":
        return _native.MembershipWorker(**begins)
    raise ValueError(f"there is no machine {kind!r}")
