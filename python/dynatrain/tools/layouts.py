"""`dynatrain layouts`: layouts of some ranks by an estimate, and what it costs to go there."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dynatrain.amounts import seconds_text
from dynatrain.tools import paper

if TYPE_CHECKING:
    from dynatrain.planning import RankedLayout


def run(options: argparse.Namespace) -> int:
    """Ranks and prints."""
    return paper.answered(lambda: _rank(options))


def _rank(options: argparse.Namespace) -> None:
    from dynatrain.planning import Batch, rank_layouts

    model, links = paper.model_and_links(options)
    batch = Batch(options.sequences, options.sequence_length, options.micro)
    rows = rank_layouts(model, links, batch, options.ranks, options.current, options.most)
    if options.json:
        paper.printed([row.to_json() for row in rows])
    else:
        show(rows, options)


def show(rows: list[RankedLayout], options: argparse.Namespace) -> None:
    """Prints a line for each layout."""
    console = Console(highlight=False, markup=False)
    console.print(
        f"{options.model}, {options.optimizer}, {options.ranks:,} ranks on {options.topology}, "
        f"{options.sequences:,} sequences\nof {options.sequence_length:,} tokens a step; "
        "an estimate by a roofline, no measurement\n\n"
        "seconds of a step: the longer of compute and dp, then tp and ep"
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layout", no_wrap=True)
    for column in ("step", "compute", "dp", "tp", "ep", "GB"):
        table.add_column(column, justify="right", no_wrap=True)
    if options.current is not None:
        table.add_column(f"from {options.current}")
    for row in rows:
        times = (
            row.step_seconds,
            row.compute_seconds,
            row.dp_seconds,
            row.tp_seconds,
            row.ep_seconds,
        )
        memory = f"{row.memory_bytes / 1e9:.3g}{'' if row.fits else '!'}"
        cells = [row.layout, *(f"{seconds:.3g}" for seconds in times), memory]
        table.add_row(*cells, *([] if options.current is None else [_way(row)]))
    console.print(table)
    if not all(row.fits for row in rows):
        console.print("!: state, gradients and activations are more than a device holds")


def _way(row: RankedLayout) -> str:
    if row.switch_seconds is None:
        return "no room for any way"
    through = f" by {', '.join(row.through)}" if row.through else ""
    return f"{seconds_text(row.switch_seconds)}, {row.switch_mode}{through}"


def add_command(commands: Any) -> None:
    """Adds `layouts` to the command line."""
    command = commands.add_parser(
        "layouts",
        help="list layouts of a number of ranks by an estimate of a step's time",
        description="Lists layouts that fit, the fastest first, by a roofline of a training step, "
        "then those that do not; and what a switch to each of them takes.",
        epilog=paper.NOTES,
    )
    paper.add_model_options(command, needs_topology=True)
    add = command.add_argument
    add("--ranks", type=int, required=True, help="of every layout")
    add("--sequences", type=int, default=1024, help="of a step, on all ranks together; 1024")
    add("--sequence-length", type=int, default=4096, help="tokens of each; 4096")
    add("--micro", type=int, default=1, help="sequences that go through a rank at once; 1")
    add("--from", dest="current", metavar="LAYOUT", help="plan the way from this one to each")
    add("--most", type=int, default=10, help="so many are listed; 10")
    command.set_defaults(run=run)
