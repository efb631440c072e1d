"""`dynatrain coordinator`: the process that decides who trains with whom in an elastic job."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynatrain.elastic.coordinator import Coordinator

DEFAULT_SECRET = "dynatrain.secret"
EXIT_STATUS = (
    "exit status: 0 when it was ended by SIGTERM or Ctrl-C, 1 when it cannot start or its ledger "
    "cannot be written, 2 when the command line is wrong"
)


def add_command(commands: Any) -> None:
    """Adds the command and its arguments."""
    command = commands.add_parser(
        "coordinator",
        help="decide who trains with whom in an elastic job",
        description="Runs the coordinator of one elastic job until it is ended. Started again with "
        "the same ledger, it goes on.",
        epilog=EXIT_STATUS,
    )
    command.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="%(default)s")
    command.add_argument(
        "--layout",
        action="append",
        required=True,
        metavar="LAYOUT",
        help="such as dp=4,tp=2; several, from the one that is wanted most: the first is taken for "
        "which enough members are there",
    )
    command.add_argument("--ledger", default="dynatrain.ledger", help="SQLite file; %(default)s")
    command.add_argument(
        "--secret-file", default=DEFAULT_SECRET, help="made if absent; %(default)s"
    )
    command.add_argument(
        "--timeout-s", type=float, default=60.0, help="of all members; %(default)s"
    )
    command.add_argument("--json", action="store_true", help="say where it listens as JSON")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serves until the process is told to end."""
    from dynatrain import Error

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        coordinator = started(options)
        _say(options, coordinator.port)
        with suppress(KeyboardInterrupt):
            asyncio.run(until_ended(coordinator))
    except Error as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


def started(options: argparse.Namespace) -> Coordinator:
    """The coordinator, listening."""
    from dynatrain import Layout
    from dynatrain.elastic.coordinator import Coordinator, Settings
    from dynatrain.elastic.secret import made_secret
    from dynatrain.elastic.sqlite_ledger import SqliteLedger

    host, _, port = options.listen.rpartition(":")
    settings = Settings(
        address=host.strip("[]") or "127.0.0.1",
        port=int(port) if port.isdecimal() else 0,
        layouts=tuple(Layout.parse(layout) for layout in options.layout),
        timeout_s=options.timeout_s,
        secret=made_secret(options.secret_file),
    )
    return Coordinator(settings, SqliteLedger(options.ledger))


async def until_ended(coordinator: Coordinator) -> None:
    """Serves until SIGTERM."""
    import signal

    serving = asyncio.ensure_future(coordinator.serve())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    with suppress(asyncio.CancelledError):
        await serving


def _say(options: argparse.Namespace, port: int) -> None:
    host = options.listen.rpartition(":")[0] or "127.0.0.1"
    if options.json:
        files = {"secret_file": str(options.secret_file)}
        found = {"schema_version": 1, "address": f"{host}:{port}", **files}
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.write(
            f"coordinator of {', '.join(options.layout)} at {host}:{port}; members join with "
            f"dynatrain.join(build, '{host}:{port}', secret_file='{options.secret_file}')\n"
        )
    sys.stdout.flush()
