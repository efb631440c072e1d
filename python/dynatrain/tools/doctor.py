"""`dynatrain doctor`: runs every probe and says what is there and what is not."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dynatrain._version import __version__
from dynatrain.tools import probes
from dynatrain.tools.verdict import transports, verdict

SCHEMA_VERSION = 1
STYLES = {"ok": "green", "absent": "yellow", "failed": "bold red"}
EXIT_STATUS = (
    "exit status: 0 when all that dynatrain needs is there (a GPU, NCCL and compilers are not "
    "needed), 1 when something that it needs is missing, 2 when the command line is wrong"
)


@dataclass(frozen=True)
class Check:
    """One probe and whether dynatrain can work without what it looks for."""

    name: str
    required: bool
    probe: Callable[[], str]


@dataclass(frozen=True)
class Finding:
    """What a probe found: `status` is ok, absent (not required) or failed (required)."""

    name: str
    status: str
    required: bool
    detail: str
    elapsed_seconds: float


CHECKS = (
    Check("Python", True, probes.python_version),
    Check("PyTorch", True, probes.torch_version),
    Check("native module", True, probes.native_module),
    Check("package", True, probes.package),
    Check("torch's c10d", True, probes.c10d),
    Check("Gloo between two ranks", True, probes.gloo),
    Check("shared memory", True, probes.shared_memory),
    Check("free memory", True, probes.free_memory),
    Check("huge shared pages", False, probes.huge_shared_pages),
    Check("memory of processes", False, probes.memory_of_processes),
    Check("NVIDIA driver", False, probes.driver),
    Check("CUDA devices", False, probes.cuda_devices),
    Check("CUDA toolkit", False, probes.cuda_toolkit),
    Check("NCCL", False, probes.nccl),
    Check("CUDA IPC", False, probes.cuda_ipc),
    Check("C++20 compiler", False, probes.compiler),
)


def run_check(check: Check) -> Finding:
    """Runs one probe; whatever goes wrong in it is a finding, not an end."""
    begin = time.perf_counter()
    try:
        detail, status = check.probe(), "ok"
    except Exception as error:  # noqa: BLE001 - a broken installation raises anything
        detail = str(error) or type(error).__name__
        status = "failed" if check.required else "absent"
    elapsed = time.perf_counter() - begin
    return Finding(check.name, status, check.required, detail, elapsed)


def statuses(findings: list[Finding]) -> dict[str, str]:
    """Returns the status of every probe by its name."""
    return {finding.name: finding.status for finding in findings}


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """Returns the findings in the shape of docs/reference/json.md."""
    found = statuses(findings)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "doctor",
        "dynatrain_version": __version__,
        "healthy": "failed" not in found.values(),
        "verdict": verdict(found),
        "transports": [asdict(transport) for transport in transports(found)],
        "probes": [asdict(finding) for finding in findings],
    }


def as_table(findings: list[Finding]) -> Table:
    """Returns the findings as a table for a terminal."""
    table = Table(title=f"dynatrain {__version__}", title_justify="left")
    table.add_column("what")
    table.add_column("state")
    table.add_column("found", overflow="fold")
    for finding in findings:
        state = f"[{STYLES[finding.status]}]{finding.status}[/]"
        table.add_row(finding.name, state, escape(finding.detail))
    return table


def transport_table(findings: list[Finding]) -> Table:
    """Returns which transports can be used, as a table for a terminal."""
    table = Table(title="dynatrain.init(transport=...)", title_justify="left")
    table.add_column("transport")
    table.add_column("usable")
    table.add_column("for, or why not")
    for way in transports(statuses(findings)):
        usable = "[green]yes[/]" if way.usable else "[yellow]no[/]"
        table.add_row(way.name, usable, escape(way.detail))
    return table


def run(options: argparse.Namespace) -> int:
    """Prints all findings; returns 1 when something required is not there."""
    findings = [run_check(check) for check in CHECKS]
    if options.json:
        sys.stdout.write(json.dumps(as_json(findings), indent=2) + "\n")
    else:
        console = Console(markup=True, highlight=False)
        console.print(as_table(findings))
        console.print(transport_table(findings))
        console.print(verdict(statuses(findings)), markup=False)
    return int("failed" in statuses(findings).values())


def add_command(commands: Any) -> None:
    """Adds `doctor` to the command line."""
    command = commands.add_parser(
        "doctor",
        help="say what this machine has, what is missing, and which transports it can use",
        description="Says what this machine has, what is missing, and what that means for a job.",
        epilog=EXIT_STATUS,
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.set_defaults(run=run)
