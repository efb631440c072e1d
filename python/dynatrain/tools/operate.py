"""`dynatrain status`, `resize` and `drain`: what an operator asks of a coordinator."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from dynatrain.tools.coordinate import DEFAULT_SECRET

EXIT_STATUS = (
    "exit status: 0 when the coordinator has answered, 1 when it refuses or does not answer, 2 "
    "when the command line is wrong"
)


def add_commands(commands: Any) -> None:
    """Adds the three commands and their arguments."""
    status = _command(commands, "status", "who is there, and why the next change waits")
    status.set_defaults(run=run, question=lambda _: {"ask": "status"})
    resize = _command(commands, "resize", "ask for a layout, or take the wish back")
    resize.add_argument("--layout", default="", help="such as dp=4,tp=2; empty takes the wish back")
    resize.set_defaults(
        run=run, question=lambda options: {"ask": "resize", "layout": options.layout}
    )
    drain = _command(commands, "drain", "take a rank out of the world and let it end")
    who = drain.add_mutually_exclusive_group(required=True)
    who.add_argument("rank", type=int, nargs="?", help="in the present world")
    who.add_argument(
        "--member", type=int, metavar="ID", help="as status lists it; a spare has no rank"
    )
    drain.set_defaults(
        run=run,
        question=lambda options: {"ask": "drain", "rank": options.rank, "member": options.member},
    )


def _command(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=EXIT_STATUS
    )
    command.add_argument(
        "--coordinator", required=True, metavar="HOST:PORT,...", help="in office and its standbys"
    )
    command.add_argument(
        "--secret-file", default=DEFAULT_SECRET, help="of the job (default: %(default)s)"
    )
    command.add_argument("--json", action="store_true", help="print the status as JSON")
    return command


def run(options: argparse.Namespace) -> int:
    """Asks, and prints the coordinator's status."""
    from dynatrain import Error
    from dynatrain.elastic.addresses import addresses_of
    from dynatrain.elastic.ask import ask
    from dynatrain.elastic.line import Line
    from dynatrain.elastic.secret import read_secret

    try:
        addresses = addresses_of(options.coordinator)
    except ValueError as error:
        sys.stderr.write(f"--coordinator is HOST:PORT, or several with commas: {error}\n")
        return 2
    try:
        line = Line(addresses, read_secret(options.secret_file))
        status = ask(line, options.question(options))
    except Error as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    if options.json:
        sys.stdout.write(json.dumps({"schema_version": 1, **status}, indent=2) + "\n")
    else:
        show(status)
    return 0


def show(status: dict[str, Any]) -> None:
    """Prints who is there and what is waited for."""
    console, world = Console(), status["world"]
    table = Table("rank", "member", "host", "role", "steps", "heard", title=_title(world))
    for member in sorted(status["members"], key=lambda each: (each["rank"] is None, each["rank"])):
        rank = "-" if member["rank"] is None else str(member["rank"])
        heard = f"{member['last_heard_ms'] / 1000:.1f} s ago"
        steps = str(member["version"])
        table.add_row(rank, str(member["id"]), member["host"], member["role"], steps, heard)
    console.print(table)
    waits = f", at most {_seconds(status['seconds_left'])}" if status["seconds_left"] else ""
    console.print(f"{status['phase']}: {status['waits_for'] or 'nothing is waited for'}{waits}")
    if status["wish"]:
        console.print(f"{status['wish']} is wished for")
    if status["last_failure"]:
        console.print(f"the last change failed: {status['last_failure']}")
    for refused in status["refused_layouts"]:
        console.print(f"{refused['layout']} is passed over: {refused['why']}")
    if status["answer"]:
        console.print(status["answer"])


def _seconds(seconds: float) -> str:
    return f"{max(seconds, 0.1):.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def _title(world: dict[str, Any]) -> str:
    if not world["members"]:
        return "no world yet"
    return f"world {world['epoch']}: {world['layout']}, from step {world['version']}"
