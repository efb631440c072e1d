"""The secret of a job, which its coordinator and its members share in a file."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from dynatrain._errors import TransportError

_LEAST_BYTES = 16
#: So long a file may be empty that another coordinator has just made, and between two looks at it.
_WRITTEN_WITHIN_S, _LOOK_EVERY_S = 2.0, 0.02


def read_secret(path: Path | str) -> bytes:
    """The secret in a file.

    Raises:
        TransportError: it cannot be read, or is too short to be one.
    """
    try:
        secret = Path(path).read_bytes().strip()
    except (OSError, ValueError) as error:
        raise _unusable(path, str(error)) from error
    if len(secret) < _LEAST_BYTES:
        raise _unusable(path, f"it has {len(secret)} bytes, and a secret at least {_LEAST_BYTES}")
    return secret


def made_secret(path: Path | str) -> bytes:
    """The secret in a file, which is made for its owner alone where there is none.

    Raises:
        TransportError: it can neither be read nor made.
    """
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        _await_writer(path)
        return read_secret(path)
    except (OSError, ValueError) as error:
        raise _unusable(path, str(error)) from error
    with os.fdopen(made, "w") as file:
        file.write(secrets.token_hex(32) + "\n")
    return read_secret(path)


def _await_writer(path: Path | str) -> None:
    """Waits while a file is empty: a standby may have started at the same moment, and make it."""
    until = time.monotonic() + _WRITTEN_WITHIN_S
    with suppress(OSError):  # whoever reads it says why
        while not Path(path).stat().st_size and time.monotonic() < until:
            time.sleep(_LOOK_EVERY_S)


def _unusable(path: Path | str, why: str) -> TransportError:
    return TransportError(
        f"elastic: the job's secret {path} cannot be used: {why}\n"
        "  expected the file that the coordinator has made or was given\n"
        "  nothing was started\n  copy it to where this process can read it",
        retryable=False,
    )
