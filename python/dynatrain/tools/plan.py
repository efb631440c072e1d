"""`dynatrain plan`: what a switch of a described model would move, with no process and no GPU."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from dynatrain import LayoutError, PlanReport

MIB = 2**20
#: Options that are counts, and the largest of each.
SIZES = {
    "layers": 2**16,
    "hidden": 2**40,
    "ffn": 2**40,
    "vocab": 2**40,
    "kv_hidden": 2**40,
    "ranks_per_node": 2**30,
    "staging_mib": 2**40,
}
#: From here on nobody should wonder whether the command hangs.
MANY_RANKS, MANY_LAYERS = 512, 2048
EXIT_STATUS = (
    "exit status: 0 when the plan was printed, 1 when a layout or a size cannot be planned, 2 when "
    "the command line is wrong, 130 after Ctrl-C. Sizes need not divide: shards are cut as torch "
    "cuts them."
)


def run(options: argparse.Namespace) -> int:
    """Plans and prints; an error of the library is printed without a traceback."""
    from dynatrain import Error

    try:
        report = planned(options)
    except Error as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was planned\n")
        return 130
    if options.json:
        sys.stdout.write(json.dumps(report.to_json(), indent=2) + "\n")
    else:
        show(report)
    return 0


def planned(options: argparse.Namespace) -> PlanReport:
    """Plans what the command line asks for."""
    from dynatrain import Layout, Topology, plan
    from dynatrain.planning import llama_tensors

    check_sizes(options)
    source, target = Layout.parse(options.source), Layout.parse(options.target)
    num_ranks = max(source.world_size, target.world_size)
    if num_ranks > MANY_RANKS or options.layers > MANY_LAYERS:
        sys.stderr.write(
            f"planning {num_ranks} ranks and {options.layers} layers, which may take minutes\n"
        )
    tensors = llama_tensors(
        options.layers, options.hidden, options.ffn, options.vocab, options.kv_hidden
    )
    topology = Topology(
        link_bytes_per_second=options.link_gb_per_second * 1e9,
        ranks_per_node=options.ranks_per_node,
    )
    return plan(source, target, tensors, topology, options.staging_mib * MIB)


def check_sizes(options: argparse.Namespace) -> None:
    """Raises LayoutError, in the words of the command line, when an option is out of range."""
    for name, largest in SIZES.items():
        value = getattr(options, name)
        if value is not None and not 1 <= value <= largest:
            raise out_of_range(name, value, f"a whole number from 1 to {largest}")
    speed = options.link_gb_per_second
    if not 0 < speed < float("inf"):  # a NaN neither
        raise out_of_range("link_gb_per_second", speed, "a number above 0")


def out_of_range(name: str, value: float, expected: str) -> LayoutError:
    """Returns the refusal of an option."""
    from dynatrain import LayoutError

    option = "--" + name.replace("_", "-")
    return LayoutError(
        f"plan: cannot use {option}={value}\n  expected {expected}\n  nothing was planned\n"
        f"  give {option} another value, or leave it out (dynatrain plan --help has the defaults)"
    )


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
    plural = "" if report.num_stages == 1 else "s"
    console.print(table)
    console.print(
        f"{report.bytes_moved / MIB:.1f} MiB move (lower bound "
        f"{report.lower_bound_bytes / MIB:.1f}) in {report.num_stages} stage{plural}; "
        f"no switch over these links is faster than {report.bound_seconds * 1e3:.1f} ms"
    )


def add_command(commands: Any) -> None:
    """Adds `plan` to the command line."""
    command = commands.add_parser(
        "plan",
        help="say what a switch of a Llama-like model would move, and how fast it could be",
        description="Plans a switch of a Llama-like model: no process is started, no GPU is used. "
        "Counted are its float32 parameters and the two moments that AdamW keeps of each.",
        epilog=EXIT_STATUS,
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
