"""The two environment variables, read here and nowhere else, and what they turn on.

``DYNATRAIN_LOG``    least level of the logger ``dynatrain``, such as ``INFO`` or ``debug``
``DYNATRAIN_TRACE``  folder into which rank 0 writes the timeline of every switch

At ``INFO`` a switch is one line, that of rank 0: all ranks have the same report.

What a script has set itself wins: a level of that logger, and where its lines go.
"""

from __future__ import annotations

import atexit
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dynatrain import _native
from dynatrain._errors import LayoutError
from dynatrain.given import shown
from dynatrain.report import SwitchReport

LOG, TRACE = "DYNATRAIN_LOG", "DYNATRAIN_TRACE"
LEVELS = {"DEBUG": logging.DEBUG, "INFO": logging.INFO, "WARNING": logging.WARNING}
FORMAT = "%(asctime)s %(name)s %(levelname)s %(message)s"
OnSwitch = Callable[[Callable[[SwitchReport], None]], None]

_package = logging.getLogger("dynatrain")
_log = logging.getLogger("dynatrain.session")


@dataclass(frozen=True)
class Settings:
    """What the environment asks for; None where it asks for nothing."""

    log_level: int | None = None
    trace_folder: Path | None = None

    def check_writable(self, rank: int) -> None:
        """Raises LayoutError when ``rank`` writes traces and the folder takes no file."""
        if self.trace_folder is None or rank != 0:
            return
        try:
            with tempfile.TemporaryFile(dir=self.trace_folder):
                pass
        except (OSError, ValueError) as error:
            raise _no_folder(str(self.trace_folder), error) from error

    def apply(self, on_switch: OnSwitch, rank: int) -> None:
        """Turns both on for a session.

        Args:
            on_switch: the session's own ``on_switch``.
            rank: of this process; rank 0 writes the traces.
        """
        if self.log_level is not None:
            _show_lines(self.log_level)
        _native.set_log_sink(_forward, _package.getEffectiveLevel())
        if self.trace_folder is not None and rank == 0:
            on_switch(_Tracer(self.trace_folder).write)


def read(environment: Mapping[str, str] = os.environ) -> Settings:
    """Reads both variables; an empty one counts as absent.

    Raises:
        LayoutError: a value does not parse, or its folder cannot be made; nothing was started.
    """
    level, folder = environment.get(LOG), environment.get(TRACE)
    return Settings(_level(level) if level else None, _folder(folder) if folder else None)


def _level(text: str) -> int:
    if text.upper() not in LEVELS:
        raise LayoutError(
            f"settings: {LOG}={shown(text)} is no level\n  expected one of {', '.join(LEVELS)}\n"
            "  nothing was started\n  name one of these, or leave the variable out"
        )
    return LEVELS[text.upper()]


def _folder(text: str) -> Path:
    try:
        # A script may go to another folder. RuntimeError: nobody has such a home.
        folder = Path(text).expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise _no_folder(text, error) from error
    return folder


def _no_folder(text: str, error: Exception) -> LayoutError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return LayoutError(
        f"settings: {TRACE}={shown(text)} is no folder that can be written: {reason}\n"
        "  expected a folder for a trace of every switch\n"
        "  nothing was started\n  name a folder that may be written, or leave the variable out"
    )


def _show_lines(level: int) -> None:
    if _package.level == logging.NOTSET:
        _package.setLevel(level)
    if not _package.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(FORMAT))
        _package.addHandler(handler)


def _forward(level: int, room: str, text: str) -> None:
    """Takes a line of the C++ core, from any of its threads."""
    logging.getLogger(f"dynatrain.{room}").log(level, "%s", text)


# A thread of the core must not meet an interpreter that has ended.
atexit.register(_native.set_log_sink, None)


@dataclass(frozen=True)
class _Tracer:
    folder: Path

    def write(self, report: SwitchReport) -> None:
        """Writes one switch; the training goes on without its trace where that fails.

        The switch is done: what raised here would end one rank.
        """
        path = self.folder / f"switch-{report.epoch:04d}.json"
        try:
            report.write_trace(path)
        except Exception as error:  # noqa: BLE001 - a full disk, a folder that is gone, memory
            _log.warning("the trace of a switch could not be written to %s: %s", path, error)
