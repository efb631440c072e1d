"""Times plans on paper of known models, each case in a process of its own, without other load.

For each case, of one rank in the middle of the world:

cold      both maps made and the rank's plan, in a process that has planned nothing
cached    the plan again, with the maps that stand
memory    what the process grew by from before the maps to behind the plan
verified  of worlds up to --verify ranks: the plans of all ranks, checked against each other and
          the maps by other arithmetic (law 2 and 3); the busiest sender over the least possible
          one, where all links are alike

A benchmark never asserts; it prints a table, or JSON as docs/reference/json.md describes it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import dynatrain
from dynatrain import Layout, _native
from dynatrain.planning import describe, load_model, topology
from dynatrain.report import SCHEMA_VERSION

#: (model, before, after) by name; the growing ones are drawn.
CASES = {
    "llama3-70b": ("llama3-70b", "tp=8,pp=8,dp=16", "tp=4,pp=4,dp=64"),
    "qwen3-235b-a22b": ("qwen3-235b-a22b", "tp=2,pp=8,ep=8,dp=64", "tp=4,pp=4,ep=16,dp=64"),
    "deepseek-v3": ("deepseek-v3", "tp=8,pp=16,ep=32,dp=128", "tp=4,pp=8,ep=64,dp=512"),
}
GROWING = ("llama3-70b", "qwen3-235b-a22b")
_SIZES = (8, 32, 128, 512, 2048, 8192, 16384)


@dataclass
class Row:
    """One case; the schema of the JSON output."""

    schema_version: int
    case: str
    source: str
    target: str
    world_size: int
    plan_cold_seconds: float
    plan_cached_seconds: float
    rss_bytes: int
    verify_seconds: float | None
    bytes_moved: int | None
    lower_bound_bytes: int | None
    bottleneck_over_bound: float | None
    relabel_bytes_saved: int | None


def grown(model: str, num_ranks: int) -> tuple[str, str, str]:
    """A case of so many ranks: up to 8 stages, then data parallel."""
    stages = min(8, num_ranks // 8) or 1
    dp = num_ranks // (8 * stages)
    if model == "llama3-70b":
        return model, f"tp=8,pp={stages},dp={dp}", f"tp=4,pp={stages},dp={2 * dp}"
    return model, f"ep=8,pp={stages},dp={8 * dp}", f"ep=4,pp={stages},dp={8 * dp}"


def measured(name: str, case: tuple[str, str, str], runs: int, most: int) -> Row:
    """Plans a case in this process, which has planned nothing yet."""
    model_name, source, target = case
    model = load_model(model_name, "adamw-mixed")
    num_ranks = max(Layout.parse(each).world_size for each in (source, target))
    nodes = topology("dgx-h100").node_of_rank(num_ranks)
    before = _resident_bytes()
    start = time.perf_counter()
    maps = [describe(each, model.tensors, model.slots) for each in (source, target)]
    plan_of = partial(_native.make_plan, *maps)
    plan_of(num_ranks // 2, nodes)
    cold = time.perf_counter() - start
    grown_bytes = _resident_bytes() - before
    cached = []
    for _ in range(runs):
        start = time.perf_counter()
        plan_of(num_ranks // 2, nodes)
        cached.append(time.perf_counter() - start)
    seconds, moved, bound, over, saved = None, None, None, None, None
    if num_ranks <= most:
        start = time.perf_counter()
        plans = [plan_of(rank, nodes) for rank in range(num_ranks)]
        violations = _native.check_plans(*maps, plans)
        seconds = time.perf_counter() - start
        sys.stderr.write("".join(f"{name}: {line}\n" for line in violations[:5]))
        moved = sum(plan.received_bytes for plan in plans)
        bound = sum(plan.lower_bound_bytes for plan in plans)
        least, _ = _native.world_traffic(*maps).least_egress()
        places = _native.relabel(*maps, nodes, range(Layout.parse(target).world_size))
        saved = places.natural_moved_bytes - places.moved_bytes
        over = max(plan_of(rank, []).sent_bytes for rank in range(num_ranks)) / max(least, 1)
    return Row(
        SCHEMA_VERSION,
        name,
        source,
        target,
        num_ranks,
        cold,
        statistics.median(cached),
        grown_bytes,
        seconds,
        moved,
        bound,
        over,
        saved,
    )


def _resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def draw(rows: list[Row], picture: Path) -> None:
    """Time and memory of the growing cases, against the number of ranks."""
    from matplotlib import pyplot as plt

    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (times, memory) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
        for model, color in zip(GROWING, ("#0072B2", "#D55E00"), strict=True):
            own = [row for row in rows if row.case == f"{model}-{row.world_size}"]
            ranks = [row.world_size for row in own]
            cold = [1e3 * row.plan_cold_seconds for row in own]
            cached = [1e3 * row.plan_cached_seconds for row in own]
            times.plot(ranks, cold, "o-", color=color, label=f"{model}, maps and plan")
            times.plot(ranks, cached, "o--", color=color, label=f"{model}, plan alone")
            held = [row.rss_bytes / 2**20 for row in own]
            memory.plot(ranks, held, "o-", color=color, label=model)
        for axes, title in ((times, "milliseconds of one rank"), (memory, "MiB that it takes")):
            axes.set_xscale("log", base=2)
            names = [f"{size // 1024}k" if size >= 1024 else str(size) for size in _SIZES]
            axes.set_xticks(_SIZES, names)
            axes.set_ylim(0)
            axes.set_title(title, loc="left")
            axes.set_xlabel("ranks of the world")
            axes.legend(frameon=False)
        figure.savefig(picture, dpi=120)


def show(rows: list[Row]) -> None:
    """Prints the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="plans on paper, of one rank")
    for column in (
        "case",
        "ranks",
        "cold ms",
        "cached ms",
        "MiB",
        "verified s",
        "over the bound",
        "relabelled",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        verified = "" if row.verify_seconds is None else f"{row.verify_seconds:.1f}"
        over, saved = row.bottleneck_over_bound, row.relabel_bytes_saved
        table.add_row(
            row.case,
            str(row.world_size),
            f"{1e3 * row.plan_cold_seconds:.1f}",
            f"{1e3 * row.plan_cached_seconds:.2f}",
            f"{row.rss_bytes / 2**20:.0f}",
            verified,
            "" if over is None else f"{over - 1:.2%}",
            "" if saved is None else f"-{saved / (row.bytes_moved or 1):.0%}",
        )
    Console().print(table)


def main() -> None:
    """Runs the cases and prints their rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--runs", type=int, default=20, help="cached plans of each case")
    parser.add_argument("--verify", type=int, default=1024, help="worlds of so many ranks at most")
    parser.add_argument("--picture", type=Path, help="draw growing worlds, too, into this file")
    parser.add_argument("--case", choices=list(CASES), help="one case only")
    options = parser.parse_args()
    cases = {options.case: CASES[options.case]} if options.case else dict(CASES)
    if options.picture:
        cases |= {f"{model}-{size}": grown(model, size) for model in GROWING for size in _SIZES}
    sys.stderr.write(
        f"# {platform.processor() or platform.machine()}, one core, dynatrain "
        f"{dynatrain.__version__}, bfloat16 with float32 masters and moments\n"
    )
    rows = []
    for name, case in cases.items():
        most = options.verify if name in CASES else 0
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as own:
            rows.append(own.submit(measured, name, case, options.runs, most).result())
    if options.picture:
        draw(rows, options.picture)
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    else:
        show(rows)


if __name__ == "__main__":
    main()
