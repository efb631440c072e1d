"""`dynatrain coordinator`: the process that decides who trains with whom in an elastic job."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynatrain.elastic.coordinator import Coordinator, CoordinatorSettings

_log = logging.getLogger("dynatrain.elastic")
DEFAULT_SECRET = "dynatrain.secret"
#: Of a time-out; the protocol takes a day at most, and says so.
_ENDLESS_S = 1e9
EXIT_STATUS = (
    "exit status: 0 when it was ended by SIGTERM or Ctrl-C, 1 when it cannot start, its ledger "
    "cannot be written or another coordinator is in office, 2 when the command line is wrong"
)


def add_command(commands: Any) -> None:
    """Adds the command and its arguments."""
    command = commands.add_parser(
        "coordinator",
        help="decide who trains with whom in an elastic job",
        description="Runs the coordinator of one elastic job until it is ended. Started again with "
        "the same ledger, it goes on. Where the ledger is in etcd and another coordinator is in "
        "office, it is a standby, which takes the office when that one is lost.",
        epilog=EXIT_STATUS,
    )
    command.add_argument(
        "--listen",
        default="127.0.0.1:0",
        metavar="HOST:PORT",
        help="for members and commands; port 0 takes one that is free (default: %(default)s)",
    )
    command.add_argument(
        "--layout",
        action="append",
        required=True,
        metavar="LAYOUT",
        help="such as dp=4,tp=2; several, from the one that is wanted most: the first is taken for "
        "which enough members are there",
    )
    command.add_argument(
        "--ledger",
        default="dynatrain.ledger",
        help="SQLite file, or etcd://HOST:PORT,HOST:PORT/JOB (default: %(default)s)",
    )
    command.add_argument("--etcd-ca", default="", metavar="FILE", help="speak TLS to etcd")
    command.add_argument("--etcd-cert", default="", metavar="FILE", help="shown to etcd")
    command.add_argument("--etcd-key", default="", metavar="FILE", help="of --etcd-cert")
    command.add_argument("--etcd-user", default="", metavar="NAME", help="where etcd knows users")
    command.add_argument("--etcd-password-file", default="", metavar="FILE", help="of --etcd-user")
    command.add_argument(
        "--secret-file", default=DEFAULT_SECRET, help="made if absent (default: %(default)s)"
    )
    command.add_argument(
        "--timeout-s", type=_seconds, default=60.0, help="of all members (default: %(default)s)"
    )
    command.add_argument(
        "--trace", default="", metavar="FILE", help="write what the protocol does, to run it again"
    )
    command.add_argument("--json", action="store_true", help="say where it listens as JSON")
    command.set_defaults(run=run)


def _has_port(address: str) -> bool:
    """Whether it says on which to listen: one that is mistyped must not be any that is free."""
    port = address.rpartition(":")[2]
    return port.isdecimal() and len(port) <= len("65535") and int(port) < 1 << 16


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < _ENDLESS_S:  # a NaN neither
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return seconds


def run(options: argparse.Namespace) -> int:
    """Serves until the process is told to end."""
    from dynatrain import Error

    if (options.etcd_cert or options.etcd_key) and not (
        options.etcd_ca and options.etcd_cert and options.etcd_key
    ):
        sys.stderr.write("--etcd-cert and --etcd-key go together, and need --etcd-ca\n")
        return 2
    if not _has_port(options.listen):
        sys.stderr.write(f"--listen is HOST:PORT, and {options.listen!r} is not\n")
        return 2
    if bool(options.etcd_user) != bool(options.etcd_password_file):
        sys.stderr.write("--etcd-user and --etcd-password-file go together\n")
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a standby waits in plain code
    try:
        with suppress(KeyboardInterrupt):
            serve(options)
    except Error as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    finally:
        # Shells and `timeout` may send a second one; nothing else is ignored while Python ends.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return 0


def serve(options: argparse.Namespace) -> None:
    """Takes the ledger, waiting for it where it is in etcd, and serves until SIGTERM."""
    from dynatrain.elastic.coordinator import Coordinator, bound_to
    from dynatrain.tools.office import opened

    settings = settings_of(options)
    bound = bound_to(settings.address, settings.port)
    port = int(bound.getsockname()[1])
    ledger = opened(options, settings, lambda holder: _say(options, port, holder))
    try:
        coordinator = Coordinator(settings, ledger, bound)
        _say(options, port)
        _log.info("in office, with the decisions of %s", options.ledger)
        asyncio.run(until_ended(coordinator))
    finally:
        ledger.close()


def settings_of(options: argparse.Namespace) -> CoordinatorSettings:
    """How the coordinator is to be run."""
    from dynatrain import Layout
    from dynatrain.elastic.coordinator import CoordinatorSettings
    from dynatrain.elastic.secret import made_secret

    host, _, port = options.listen.rpartition(":")
    return CoordinatorSettings(
        address=host.strip("[]") or "127.0.0.1",
        port=int(port),
        layouts=tuple(Layout.parse(layout) for layout in options.layout),
        timeout_s=options.timeout_s,
        secret=made_secret(options.secret_file),
        trace=Path(options.trace) if options.trace else None,
    )


async def until_ended(coordinator: Coordinator) -> None:
    """Serves until SIGTERM; a further one, while it ends, is no other matter."""
    serving = asyncio.ensure_future(coordinator.serve())
    loop = asyncio.get_running_loop()

    def end(*_: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(serving.cancel)

    signal.signal(signal.SIGTERM, end)
    with suppress(asyncio.CancelledError):
        await serving


def _say(options: argparse.Namespace, port: int, holder: str = "") -> None:
    """Says where it listens, or will when ``holder`` is not in office any more."""
    address = f"{options.listen.rpartition(':')[0] or '127.0.0.1'}:{port}"
    if options.json:
        facts = {"address": address, "secret_file": str(options.secret_file), "holder": holder}
        sys.stdout.write(json.dumps({"schema_version": 1, **facts}) + "\n")
    elif holder:
        sys.stdout.write(f"standby at {address}; the coordinator in office is {holder}\n")
    else:
        sys.stdout.write(
            f"coordinator of {', '.join(options.layout)} at {address}; members join with "
            "`from dynatrain.join import join` and "
            f"`join(build, {address!r}, secret_file={str(options.secret_file)!r})`\n"
        )
    sys.stdout.flush()
