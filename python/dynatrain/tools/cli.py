"""Reads the command line and hands over to one module per command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dynatrain._version import __version__
from dynatrain.tools import coordinate, doctor, explain, layouts, operate, plan, predict


def parser() -> argparse.ArgumentParser:
    """Returns the parser; each command adds its own arguments."""
    top = argparse.ArgumentParser(
        prog="dynatrain", description="Change the parallel layout of a running training job."
    )
    top.add_argument("--version", action="version", version=f"dynatrain {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    doctor.add_command(commands)
    plan.add_command(commands)
    predict.add_command(commands)
    explain.add_command(commands)
    layouts.add_command(commands)
    coordinate.add_command(commands)
    operate.add_commands(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    options = parser().parse_args(arguments)
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
