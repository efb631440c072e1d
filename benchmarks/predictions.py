"""Predicts switches of ranks on one host, then makes them: how far apart are the two?

Three numbers of the host are measured first, none of them by a switch that is predicted:

host_bytes_per_second         raw messages between all ranks at once, over Gloo
host_memory_bytes_per_second  plain copies of all ranks at once
switch_seconds                a switch of a state of a few MB, which has nearly nothing to move

Packing and unpacking also cut, sum and compare; what a byte of it costs beside a plain copy
(pack_cost) is taken from the first pair, which is marked as fitted and counts for nothing.

A benchmark never asserts; it prints a table, or JSON as docs/reference/json.md describes it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import dynatrain
from contenders import plain_copy, raw_messages
from dynatrain.planning import Model, Topology, model_of, plan
from dynatrain.report import SCHEMA_VERSION
from gpu_ranks import free_port
from stack_of_blocks import HIDDEN, Job
from switch import timed

NUM_RANKS = 4
#: The first one is fitted.
PAIRS = (
    ("dp=4", "dp=2,tp=2"),
    ("tp=4", "dp=2,tp=2"),
    ("dp=2,tp=2", "tp=4"),
    ("dp=4", "dp=2"),
    ("tp=2", "dp=4"),
    ("tp=4", "dp=4"),
    ("dp=2", "tp=2"),
    ("dp_replicate=2,dp=2", "tp=4"),
)
TP_DIMS = {"*.up.weight": 0, "*.down.weight": 1}
_PROBE_ELEMS = 64 << 20
_SMALL_PARAMS = 10**5


@dataclass
class Row:
    """One pair and size; the schema of the JSON output."""

    schema_version: int
    source: str
    target: str
    params: int
    is_fitted: bool
    bytes_moved: int
    bound_seconds: float
    predicted_seconds: float
    measured_seconds: float
    measured_min: float

    @property
    def ratio(self) -> float:
        """Of what was predicted to what was measured."""
        return self.predicted_seconds / self.measured_seconds


def job_of(params: float) -> Job:
    """A stack of about so many parameters."""
    return Job(max(1, round(params / (8 * HIDDEN**2))))


def described(job: Job) -> Model:
    """The same on paper."""
    with torch.device("meta"):
        module = job.build(_Alone()).model
    return model_of(module, "adamw", TP_DIMS)


class _Alone:
    """A world of one rank, as far as the job asks."""

    def enabled(self, axis: str) -> bool:
        return False

    def submesh(self, *axes: str) -> None:
        return None


def probed(runs: int, small_switch_seconds: float) -> Topology:
    """The links of this host. Collective."""
    size = dist.get_world_size()
    probe_bytes = _PROBE_ELEMS * 4 // (size - 1)
    traffic = [(src, dst, probe_bytes) for src in range(size) for dst in range(size) if src != dst]
    messages = raw_messages(traffic)
    wire = statistics.median([timed(messages) for _ in range(runs)])
    del messages
    copy = plain_copy(_PROBE_ELEMS, torch.device("cpu"))
    copies = statistics.median([timed(copy) for _ in range(runs)])
    return Topology(
        link_bytes_per_second=1e12,
        memory_bytes_per_second=1e12,
        host_bytes_per_second=probe_bytes * len(traffic) / wire,
        host_memory_bytes_per_second=_PROBE_ELEMS * 4 * size / copies,
        switch_seconds=small_switch_seconds,
        num_nodes=1,
    )


def switches(params: float, runs: int, pairs: tuple[tuple[str, str], ...]) -> list[list[float]]:
    """Seconds of prepared switches between each pair, slowest rank. Collective."""
    job = job_of(params)
    session = dynatrain.init(job.build, pairs[0][0], initialize=job.initialize, timeout_s=300)
    seconds: list[list[float]] = [[] for _ in pairs]
    for _ in range(runs):
        for (source, target), measured in zip(pairs, seconds, strict=True):
            session.switch(source)
            session.prepare(target)
            measured.append(timed(partial(session.switch, target)))
    session.close()
    return seconds


def rows_of(
    params: float, links: Topology, seconds: list[list[float]], fitted: tuple[str, str] | None
) -> Iterator[Row]:
    """What was predicted beside what was measured."""
    model = described(job_of(params))
    for (source, target), measured in zip(PAIRS, seconds, strict=True):
        report = plan(source, target, model, links)
        yield Row(
            SCHEMA_VERSION,
            source,
            target,
            model.num_params,
            (source, target) == fitted,
            report.bytes_moved,
            report.bound_seconds,
            report.predicted_seconds,
            statistics.median(measured),
            min(measured),
        )


def fitted_to(links: Topology, params: float, seconds: float) -> Topology:
    """The same links, with packing as slow as the first pair's switch shows it to be."""
    model = described(job_of(params))
    lowest, highest = 0.25, 64.0
    for _ in range(30):
        middle = (lowest * highest) ** 0.5
        tried = replace(links, pack_cost=middle)
        if plan(*PAIRS[0], model, tried).predicted_seconds > seconds:
            highest = middle
        else:
            lowest = middle
    return replace(links, pack_cost=lowest)


def worker(rank: int, options: argparse.Namespace, folder: str) -> None:
    """One rank; rank 0 writes the rows."""
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(NUM_RANKS)}
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{options.port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=NUM_RANKS)
    small = switches(_SMALL_PARAMS, options.runs, PAIRS[:1])
    links = probed(options.runs, statistics.median(small[0]))
    rows: list[Row] = []
    for params in options.params:
        seconds = switches(params, options.runs, PAIRS)
        if params == options.params[0]:
            links = fitted_to(links, params, statistics.median(seconds[0]))
        rows += rows_of(params, links, seconds, None if rows else PAIRS[0])
    if rank == 0:
        found = {"links": asdict(links), "rows": [asdict(row) for row in rows]}
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def show(rows: list[Row]) -> None:
    """Prints the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="seconds of a prepared switch, slowest rank")
    for column in ("source", "target", "M params", "predicted", "median", "min", "ratio", ""):
        table.add_column(column, justify="right")
    for row in rows:
        numbers = (row.predicted_seconds, row.measured_seconds, row.measured_min)
        table.add_row(
            row.source,
            row.target,
            f"{row.params / 1e6:.0f}",
            *(f"{number:.3f}" for number in numbers),
            f"{row.ratio:.2f}",
            "fitted" if row.is_fitted else "",
        )
    Console().print(table)


def draw(rows: list[Row], picture: Path) -> None:
    """A point for each pair and size; within the band is within 25 %."""
    from matplotlib import pyplot as plt

    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
        most = 1.2 * max(max(row.predicted_seconds, row.measured_seconds) for row in rows)
        least = 0.8 * min(min(row.predicted_seconds, row.measured_seconds) for row in rows)
        ends = [least, most]
        axes.fill_between(
            ends, [0.75 * end for end in ends], [1.25 * end for end in ends], color="#E8E8E8", lw=0
        )
        axes.plot(ends, ends, color="#B8B8B8", lw=1)
        for params, color in zip(
            sorted({row.params for row in rows}), ("#0072B2", "#E69F00", "#009E73"), strict=False
        ):
            for is_fitted, marker in ((False, "o"), (True, "x")):
                some = [r for r in rows if r.params == params and r.is_fitted == is_fitted]
                label = f"{params / 1e6:.0f} M parameters{', fitted' if is_fitted else ''}"
                axes.plot(
                    [row.measured_seconds for row in some],
                    [row.predicted_seconds for row in some],
                    marker,
                    color=color,
                    label=label if some else None,
                )
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        ticks = [tick for tick in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if least <= tick <= most]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.set_ticks([], minor=True)
        axes.set_xlabel("measured seconds, median")
        axes.set_ylabel("predicted seconds")
        axes.legend(frameon=False, title="band: 25 %")
        figure.savefig(picture, dpi=120)


def main() -> None:
    """Runs the benchmark and prints its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--picture", type=Path, help="draw it, too")
    parser.add_argument("--runs", type=int, default=5, help="switches of each pair")
    parser.add_argument(
        "--params", type=float, nargs="+", default=[300e6, 100e6], help="sizes; the first is fitted"
    )
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.stderr.write(
        f"# {platform.processor() or platform.machine()}, {os.cpu_count()} processors, "
        f"torch {torch.__version__}, dynatrain {dynatrain.__version__}, {NUM_RANKS} ranks, "
        f"{options.runs} runs\n"
    )
    options.port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (options, folder), nprocs=NUM_RANKS)
        found = json.loads(Path(folder, "found.json").read_text())
    rows = [Row(**row) for row in found["rows"]]
    if options.picture is not None:
        draw(rows, options.picture)
    if options.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        show(rows)


if __name__ == "__main__":
    main()
