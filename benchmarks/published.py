"""What others have published of switches, beside what a plan of ours predicts for the same ones.

Each case is a model, two layouts, ranks and link rates as published; where a layout was not, a set
of likely ones is planned and the slowest counts. Predictions are at the links' full rates.

A benchmark never asserts; it prints a table, or JSON as docs/reference/json.md describes it.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

from dynatrain.planning import PlanReport, load_model, plan, topology
from dynatrain.report import SCHEMA_VERSION


@dataclass(frozen=True)
class Case:
    """A published switch.

    Attributes:
        system: whose it is.
        model: of the catalog.
        pairs: layouts before and after, all that are tried.
        machine: a preset.
        is_disjoint: trainers send to other ranks.
        optimizers: what travelled; where it was not said, weights alone and with AdamW's state.
        seconds: as published, least and most.
    """

    system: str
    model: str
    pairs: tuple[tuple[str, str], ...]
    machine: str
    is_disjoint: bool
    optimizers: tuple[str, ...]
    seconds: tuple[float, float]


_BOTH = ("none", "adamw-mixed")
CASES = (
    Case(
        "DynaTrain",
        "llama3-70b",
        (
            ("tp=8,pp=8,dp=2", "tp=8,pp=4,dp=4"),
            ("tp=8,pp=4,dp=4", "tp=4,pp=8,dp=4"),
            ("tp=8,pp=2,dp=8", "tp=8,pp=8,dp=2"),
            ("tp=8,pp=4,dp=4", "tp=8,pp=4,dp=2"),
        ),
        "dgx-a100",
        False,
        _BOTH,
        (0.0, 2.0),
    ),
    Case(
        "DynaTrain",
        "qwen3-235b-a22b",
        (
            ("tp=4,pp=4,ep=8,dp=8", "tp=4,pp=8,ep=8,dp=4"),
            ("tp=4,pp=8,ep=4,dp=4", "tp=4,pp=4,ep=8,dp=8"),
            ("tp=2,pp=8,ep=8,dp=8", "tp=4,pp=4,ep=16,dp=8"),
        ),
        "dgx-a100",
        False,
        _BOTH,
        (4.36, 4.36),
    ),
    Case(
        "NCCL M2N",
        "deepseek-v3",
        (("pp=4,ep=16,dp=32", "tp=8,dp_replicate=16"),),
        "gb200-nvl72",
        True,
        ("none",),
        (1.447, 1.447),
    ),
    Case(
        "NCCL M2N",
        "qwen3-235b-a22b",
        (("tp=2,pp=4,cp=2,ep=16,dp=4", "tp=8,dp_replicate=8"),),
        "gb200-nvl72",
        True,
        ("none",),
        (0.989, 0.989),
    ),
    Case(
        "NeMo-RL",
        "qwen3-235b-a22b",
        (("tp=4,pp=8,ep=16,dp=4", "tp=8,dp_replicate=16"),),
        "dgx-h100",
        True,
        ("none",),
        (4.56, 4.85),
    ),
    Case(
        "NeMo-RL",
        "qwen3-30b-a3b",
        (("tp=2,pp=2,ep=4,dp=2", "tp=4,dp_replicate=4"),),
        "dgx-h100",
        True,
        ("none",),
        (0.48, 0.52),
    ),
)


@dataclass
class Row:
    """One case and kind of state; the schema of the JSON output."""

    schema_version: int
    system: str
    model: str
    source: str
    target: str
    optimizer: str
    topology: str
    is_disjoint: bool
    num_ranks: int
    bytes_moved: int
    bound_seconds: float
    predicted_seconds: float
    published_seconds: tuple[float, float]


def row_of(case: Case, optimizer: str) -> Row:
    """The slowest of a case's pairs."""
    model, links = load_model(case.model, optimizer), topology(case.machine)

    def planned(pair: tuple[str, str]) -> PlanReport:
        return plan(*pair, model, links, 1 << 30, disjoint=case.is_disjoint)

    report = max(map(planned, case.pairs), key=lambda each: each.predicted_seconds)
    return Row(
        SCHEMA_VERSION,
        case.system,
        case.model,
        report.source,
        report.target,
        optimizer,
        case.machine,
        case.is_disjoint,
        len(report.ranks),
        report.bytes_moved,
        report.bound_seconds,
        report.predicted_seconds,
        case.seconds,
    )


def show(rows: list[Row]) -> None:
    """Prints the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="seconds")
    for column in ("system", "model", "state", "switch", "ranks", "bound", "ours", "published"):
        table.add_column(column)
    for row in rows:
        least, most = row.published_seconds
        published = f"{most:g}" if least == most else f"{least:g} to {most:g}"
        table.add_row(
            row.system,
            row.model,
            row.optimizer,
            f"{row.source} → {row.target}",
            f"{row.num_ranks}{' apart' if row.is_disjoint else ''}",
            f"{row.bound_seconds:.3f}",
            f"{row.predicted_seconds:.3f}",
            published if least else f"< {most:g}",
        )
    Console(width=160).print(table)


def main() -> None:
    """Plans all cases and prints their rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--system", help="cases of this one alone")
    options = parser.parse_args()
    rows = [
        row_of(case, optimizer)
        for case in CASES
        if options.system in (None, case.system)
        for optimizer in case.optimizers
    ]
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    else:
        show(rows)


if __name__ == "__main__":
    main()
