"""`dynatrain explain`: who has, who needs and who sends each part of a tensor, and why."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dynatrain.amounts import ranks_text
from dynatrain.tools import paper

if TYPE_CHECKING:
    from dynatrain.planning import Explanation

#: Lines of each table, unless all are asked for.
_SCREENFUL = 16


def run(options: argparse.Namespace) -> int:
    """Plans and prints."""
    return paper.answered(lambda: _explain(options))


def _explain(options: argparse.Namespace) -> None:
    from dynatrain.planning import explain

    layouts = paper.two_layouts(options)
    model, links = paper.model_and_links(options)
    found = explain(layouts, model, options.tensor, options.rank, links, disjoint=options.disjoint)
    if options.json:
        paper.printed(found.to_json())
    else:
        show(found, layouts, None if options.all else _SCREENFUL)


def show(found: Explanation, layouts: tuple[str, str], most: int | None) -> None:
    """Prints the cells and what the rank does with them."""
    console = Console(highlight=False, markup=False)
    console.print(f"{found.tensor}, {found.dtype} {found.shape}, {layouts[0]} → {layouts[1]}")
    cells = Table(
        title=f"boxes that rank {found.rank} has or needs", title_justify="left", show_edge=False
    )
    for column in ("box", "had by", "needed by"):
        cells.add_column(column)
    for cell in found.cells[:most]:
        box = _box(cell.begin, cell.end)
        cells.add_row(Text(box), ranks_text(cell.owners, 4), ranks_text(cell.needers, 4))
    transfers = Table(title=f"what rank {found.rank} does", title_justify="left", show_edge=False)
    for column in ("pass", "box", "from", "to", "why"):
        transfers.add_column(column)
    for each in found.transfers[:most]:
        ends = (str(each.src), str(each.dst))
        transfers.add_row(str(each.in_pass), Text(_box(each.begin, each.end)), *ends, each.why)
    console.print()
    console.print(cells)
    console.print()
    console.print(transfers if found.transfers else f"rank {found.rank} does nothing with it")
    longest = max(len(found.cells), len(found.transfers))
    if most is not None and longest > most:
        console.print(f"\nthe first {most} of up to {longest:,} lines; --all prints all of them")


def _box(begin: list[int], end: list[int]) -> str:
    """As torch's slices are written."""
    ranges = ", ".join(f"{low}:{high}" for low, high in zip(begin, end, strict=True))
    return f"[{ranges}]"


def add_command(commands: Any) -> None:
    """Adds `explain` to the command line."""
    command = commands.add_parser(
        "explain",
        help="say who has, who needs and who sends each part of a tensor, and why",
        description="Explains a planned switch of one tensor, seen from one rank.",
        epilog=paper.NOTES,
    )
    paper.add_options(command)
    add = command.add_argument
    add("--tensor", required=True, help="a parameter, or one of its states: NAME|exp_avg")
    add("--rank", type=int, required=True, help="whose view it is")
    add("--disjoint", action="store_true", help="the target is on other ranks than the source")
    add("--all", action="store_true", help="all lines, however many")
    command.set_defaults(run=run)
