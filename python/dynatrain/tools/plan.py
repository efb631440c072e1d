"""`dynatrain plan`: what a switch of a described model would move, with no process and no GPU."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dynatrain.amounts import bytes_text, ranks_text, seconds_text, unit_of
from dynatrain.tools import paper

if TYPE_CHECKING:
    from dynatrain import PlanReport
    from dynatrain.planning import Bottleneck, Egress, RankPlan


def run(options: argparse.Namespace) -> int:
    """Plans and prints."""
    return paper.answered(lambda: _plan(options))


def _plan(options: argparse.Namespace) -> None:
    from dynatrain import Layout, plan
    from dynatrain.planning import page

    staging_bytes = paper.staging_bytes(options)
    source, target = (Layout.parse(text) for text in paper.two_layouts(options))
    model, links = paper.model_and_links(options)
    sizes = (source.world_size, target.world_size)
    num_ranks = sum(sizes) if options.disjoint else max(sizes)
    paper.warn_of_many(num_ranks)
    flags = {"disjoint": options.disjoint, "relabel": options.relabel}
    report = plan(source, target, model, links, staging_bytes, **flags)
    if options.html is not None:
        _write(options.html, page(report, model, links))
        sys.stderr.write(f"wrote {options.html}\n")
    if options.json:
        paper.printed(report.to_json())
    else:
        show(report, options)


def _write(path: Path, text: str) -> None:
    from dynatrain import LayoutError

    try:
        path.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise LayoutError(
            f"plan: cannot write --html={path}: {error}\n"
            "  expected the path of a file that can be written\n"
            "  the plan was made; no page was written\n  give --html another path"
        ) from error


def show(report: PlanReport, options: argparse.Namespace) -> None:
    """Prints the plan for a terminal: a screenful, or a line for every rank."""
    from dynatrain import Layout

    console = Console(highlight=False, markup=False)
    state_bytes = sum(rank.target_bytes for rank in report.ranks)
    where = "" if options.topology is None else f" on {options.topology}"
    if report.is_disjoint:
        first = Layout.parse(report.source).world_size
        where += f", the target on ranks {first} to {len(report.ranks) - 1}"
    console.print(
        f"{report.model}: {report.num_params / 1e9:,.2f} B parameters, {options.optimizer}, "
        f"{bytes_text(state_bytes)} on all ranks together afterwards\n"
        f"{report.source} → {report.target}, {len(report.ranks):,} ranks{where}\n"
    )
    _show_bytes(console, report)
    if report.bottleneck is not None:
        plural = "" if report.num_stages == 1 else "s"
        console.print(
            f"stop   at least {seconds_text(report.bound_seconds)}, in {report.num_stages:,} "
            f"stage{plural}: {_told(report.bottleneck)}\n"
            f"       about {seconds_text(report.predicted_seconds)} in virtual time, at "
            f"full link rates; rank {report.last_rank.rank} ends last"
        )
    if report.egress is not None and report.bytes_moved:
        _show_egress(console, report.egress, report.bytes_moved_far > 0)
    every = [("", rank) for rank in report.ranks]
    console.print(_table(every if options.all else _chosen(report.ranks)))


def _show_bytes(console: Console, report: PlanReport) -> None:
    near = report.bytes_moved - report.bytes_moved_far
    links = ""
    if report.bytes_moved_far:
        links = f": {bytes_text(near)} within nodes, {bytes_text(report.bytes_moved_far)} between"
    handed_on = ""
    if report.handed_on_bytes:
        handed_on = (
            f"\n       {bytes_text(report.handed_on_bytes)} of it by ranks that were sent other "
            "parts, in a second pass"
        )
    console.print(
        f"moved  {bytes_text(report.bytes_moved)}{links}{handed_on}\n"
        f"       no switch between these places moves less than "
        f"{bytes_text(report.lower_bound_bytes)}{_relabelled(report)}\n"
        f"kept   {bytes_text(report.bytes_kept)}"
    )


def _relabelled(report: PlanReport) -> str:
    if not report.relabel_saved_bytes:
        return ""
    saved = bytes_text(report.relabel_saved_bytes)
    if report.is_relabelled:
        return f"\n       {saved} less, as ranks are relabelled"
    return f"\n       {saved} less with ranks relabelled (--relabel)"


def _told(bottleneck: Bottleneck) -> str:
    what = {"network": "between nodes", "node": "within its node", "memory": "in its memory"}
    verb = {"send": "sends", "receive": "receives", "": "copies"}[bottleneck.direction]
    return (
        f"rank {bottleneck.rank} {verb} {bytes_text(bottleneck.size_bytes)} {what[bottleneck.link]}"
    )


def _show_egress(console: Console, egress: Egress, has_nodes: bool) -> None:
    """What the busiest sender sends, and by what other rules it would."""
    ranks = ranks_text(egress.bound_ranks, 3)
    who = f"ranks {ranks} alone have" if len(egress.bound_ranks) > 1 else f"rank {ranks} alone has"
    over = egress.planned_bytes / egress.bound_bytes - 1 if egress.bound_bytes else 0.0
    side = "over the bound" if over >= 0 else "under the bound of one pass"
    others = {
        "modulo": egress.modulo_bytes,
        "first owner": egress.first_owner_bytes,
        "least loaded": egress.least_loaded_bytes,
    }
    told = ", ".join(f"{name} {bytes_text(size_bytes)}" for name, size_bytes in others.items())
    console.print(
        f"sends  {bytes_text(egress.planned_bytes)} at most, {abs(over):.1%} {side}\n"
        f"       bound: what {who}, shared evenly\n"
        f"       by other rules: {told}"
    )
    if has_nodes:
        console.print(
            "       bound and other rules know no nodes; ours asks a rank's own node first"
        )


def _chosen(ranks: list[RankPlan]) -> list[tuple[str, RankPlan]]:
    """The busiest rank, the one in the middle, and the least busy one."""

    def busy(rank: RankPlan) -> tuple[float, int]:
        return (max(rank.sent_bytes, rank.received_bytes), -rank.rank)

    middle = median_low([busy(rank) for rank in ranks])
    return [
        ("busiest", max(ranks, key=busy)),
        ("median", next(rank for rank in ranks if busy(rank) == middle)),
        ("least", min(ranks, key=busy)),
    ]


def _table(ranks: list[tuple[str, RankPlan]]) -> Table:
    """A line for each of these, sizes in one unit."""
    name, unit = unit_of(max(rank.peak_bytes for _, rank in ranks))
    table = Table(
        title=f"{name} of one rank", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for column in ("", "rank", "sent", "received", "at least", "kept", "staging", "peak", "moves"):
        table.add_column(column, justify="right", no_wrap=True)
    for lead, rank in ranks:
        sizes = (
            rank.sent_bytes,
            rank.received_bytes,
            rank.lower_bound_bytes,
            rank.kept_bytes,
            rank.staging_bytes,
            rank.peak_bytes,
        )
        cells = [f"{size_bytes / unit:.2f}" for size_bytes in sizes]
        table.add_row(lead, str(rank.rank), *cells, f"{rank.num_moves:,}")
    return table


def add_command(commands: Any) -> None:
    """Adds `plan` to the command line."""
    command = commands.add_parser(
        "plan",
        help="say what a switch of a model would move, and how fast it could be",
        description="Plans a switch of a model on paper: no process is started, no GPU is used.",
        epilog=paper.NOTES,
    )
    paper.add_options(command)
    paper.add_switch_options(command)
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page with pictures, too"
    )
    command.add_argument(
        "--disjoint", action="store_true", help="the target is on other ranks than the source"
    )
    command.add_argument("--all", action="store_true", help="a line for every rank")
    command.set_defaults(run=run)
