"""`dynatrain plan`: what a switch of a described model would move, with no process and no GPU."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from dynatrain import PlanReport

MIB = 2**20


def run(options: argparse.Namespace) -> int:
    """Plans and prints; an error of the library is printed without a traceback."""
    from dynatrain import Error, Topology, plan
    from dynatrain.planning import llama_tensors

    tensors = llama_tensors(
        options.layers, options.hidden, options.ffn, options.vocab, options.kv_hidden
    )
    topology = Topology(
        link_bytes_per_second=options.link_gb_per_second * 1e9,
        ranks_per_node=options.ranks_per_node,
    )
    budget_bytes = options.staging_mib * MIB
    try:
        report = plan(options.source, options.target, tensors, topology, budget_bytes)
    except Error as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    if options.json:
        sys.stdout.write(json.dumps(report.to_json(), indent=2) + "\n")
    else:
        show(report)
    return 0


def show(report: PlanReport) -> None:
    """Prints the plan as a table for a terminal."""
    table = Table(title=f"{report.source} → {report.target}, MiB", title_justify="left")
    for column in ("rank", "sent", "received", "lower bound", "kept", "staging", "moves"):
        table.add_column(column, justify="right")
    for rank in report.ranks:
        sizes = (
            rank.sent_bytes,
            rank.received_bytes,
            rank.lower_bound_bytes,
            rank.kept_bytes,
            rank.staging_bytes,
        )
        cells = [f"{size_bytes / MIB:.1f}" for size_bytes in sizes]
        table.add_row(str(rank.rank), *cells, str(rank.num_moves))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{report.bytes_moved / MIB:.1f} MiB move (lower bound "
        f"{report.lower_bound_bytes / MIB:.1f}) in {report.num_stages} stages; "
        f"no switch over these links is faster than {report.bound_seconds * 1e3:.1f} ms"
    )


def add_command(commands: Any) -> None:
    """Adds `plan` to the command line."""
    command = commands.add_parser(
        "plan",
        help="say what a switch of a Llama-like model would move, and how fast it could be",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = command.add_argument
    add("source", help="layout before, e.g. dp=4")
    add("target", help="layout after, e.g. dp=2,tp=2")
    add("--layers", type=int, default=32, help="layers of the model")
    add("--hidden", type=int, default=4096, help="width of the model")
    add("--ffn", type=int, default=14336, help="width of the feed-forward blocks")
    add("--vocab", type=int, default=128256, help="tokens in the vocabulary")
    add("--kv-hidden", type=int, default=1024, help="width of keys and of values")
    add("--link-gb-per-second", type=float, default=25.0, help="link of one rank, each direction")
    add("--ranks-per-node", type=int, default=None, help="all on one node when not given")
    add("--staging-mib", type=int, default=256, help="staging budget of a rank")
    add("--json", action="store_true", help="print JSON instead of a table")
    command.set_defaults(run=run)
