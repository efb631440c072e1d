"""`dynatrain predict`: how long a switch takes and what ranks hold meanwhile, in virtual time."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dynatrain.amounts import bytes_text, seconds_text, unit_of
from dynatrain.tools import paper

if TYPE_CHECKING:
    from dynatrain import PlanReport

_MODES = ("retain", "stream")


def run(options: argparse.Namespace) -> int:
    """Predicts and prints."""
    return paper.answered(lambda: _predict(options))


def _predict(options: argparse.Namespace) -> None:
    from dynatrain import Layout, plan

    staging_bytes = paper.staging_bytes(options)
    source, target = (Layout.parse(text) for text in paper.two_layouts(options))
    model, links = paper.model_and_links(options)
    paper.warn_of_many(2 * max(source.world_size, target.world_size))
    reports = {
        mode: plan(source, target, model, links, staging_bytes, relabel=options.relabel, mode=mode)
        for mode in _MODES
    }
    if options.picture is not None:
        _draw(reports, options.picture)
        sys.stderr.write(f"wrote {options.picture}\n")
    if options.json:
        paper.printed({mode: report.to_json() for mode, report in reports.items()})
    else:
        show(reports, options)


def show(reports: dict[str, PlanReport], options: argparse.Namespace) -> None:
    """Prints both modes beside each other."""
    console = Console(highlight=False, markup=False)
    first = reports["retain"]
    where = "" if options.topology is None else f" on {options.topology}"
    console.print(
        f"{first.model}: {first.num_params / 1e9:,.2f} B parameters, {options.optimizer}\n"
        f"{first.source} → {first.target}, {len(first.ranks):,} ranks{where}"
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for mode in reports:
        table.add_column(mode, justify="right")
    for name, cells in _lines([*reports.values()]):
        table.add_row(name, *cells)
    console.print(table)
    console.print(
        "of a prepared switch at the links' full rates; stream frees the source, tensor by\n"
        "tensor, while the target arrives, and has no way back once it has begun"
    )


def _lines(reports: list[PlanReport]) -> list[tuple[str, list[str]]]:
    def each(text: Any) -> list[str]:
        return [text(report) for report in reports]

    return [
        ("stop", each(lambda r: seconds_text(r.predicted_seconds))),
        ("  no less than", each(lambda r: seconds_text(r.bound_seconds))),
        ("  rank that ends last", each(lambda r: str(r.last_rank.rank))),
        ("stages", each(lambda r: f"{r.num_stages:,}")),
        ("moved", each(lambda r: bytes_text(r.bytes_moved))),
        ("  between nodes", each(lambda r: bytes_text(r.bytes_moved_far))),
        ("  handed on", each(lambda r: bytes_text(r.handed_on_bytes))),
        ("most that a rank holds", each(lambda r: bytes_text(r.fullest_rank.peak_bytes))),
        ("  rank", each(lambda r: str(r.fullest_rank.rank))),
        ("  state before", each(lambda r: bytes_text(r.fullest_rank.source_bytes))),
        ("  state after", each(lambda r: bytes_text(r.fullest_rank.target_bytes))),
        ("  staging", each(lambda r: bytes_text(r.fullest_rank.staging_bytes))),
    ]


def _draw(reports: dict[str, PlanReport], path: Path) -> None:
    """Memory over time of the rank that holds most, in either mode."""
    from dynatrain import LayoutError

    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 3), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        name, unit = unit_of(max(r.fullest_rank.peak_bytes for r in reports.values()))
        for (mode, report), color in zip(reports.items(), ("#0072B2", "#D55E00"), strict=True):
            rank = report.fullest_rank
            points = [(0.0, rank.source_bytes)]
            points += [(point.seconds, point.held_bytes) for point in report.memory]
            points.append((report.predicted_seconds, rank.target_bytes))
            axes.step(
                [seconds for seconds, _ in points],
                [held / unit for _, held in points],
                where="post",
                color=color,
                label=f"{mode}, rank {rank.rank}",
            )
        axes.set_xlabel("seconds since the switch began, in virtual time")
        axes.set_ylabel(f"{name} of state and staging")
        axes.set_ylim(0)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(path, dpi=130)
    except (ImportError, OSError, ValueError) as error:
        raise LayoutError(
            f"predict: cannot write --picture={path}: {error}\n"
            "  expected matplotlib, and the path of a picture that can be written, such as a.png\n"
            "  the switch was predicted; no picture was written\n"
            "  give --picture another path, or pip install matplotlib"
        ) from error


def add_command(commands: Any) -> None:
    """Adds `predict` to the command line."""
    command = commands.add_parser(
        "predict",
        help="say how long a switch takes and what ranks hold meanwhile",
        description="Runs the schedules of all ranks of a described switch in virtual time, with "
        "the source retained and streamed away.",
        epilog=paper.NOTES,
    )
    paper.add_options(command)
    paper.add_switch_options(command)
    command.add_argument("--picture", type=Path, metavar="FILE", help="draw memory over time, too")
    command.set_defaults(run=run)
