"""Measures what a switch takes of host memory, beside what its plan says, rank by rank.

Starts its own processes. Each pair of layouts is prepared and switched once in each mode, after one
switch of the same that is not measured; nothing is trained meanwhile.

predicted    what the prepared switch says that this rank takes beside its source and the staging
             that the switch before has left, at most
measured     how far the process's resident memory rises above where it stood before prepare(), at
             most, as the kernel keeps it (VmHWM)

With --picture a PNG shows the resident memory of every rank over time, and what was predicted.

A benchmark never asserts; it prints a table, or JSON as docs/reference/json.md describes it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import dynatrain
from dynatrain import TrainState, World, _native
from dynatrain.report import SCHEMA_VERSION
from gpu_ranks import free_port
from stack_of_blocks import HIDDEN, FeedForward, Job

NUM_RANKS = 4
MODES = ("retain", "stream")
#: Source and target; the second of a pair that is marked so has its stages in reverse order.
REVERSED = "pp=4 reversed"
PAIRS = (("pp=4", REVERSED), ("pp=2", "tp=2"), ("dp=4", "pp=4"), ("tp=4", "dp=4"))
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PERIOD_S = 0.002


@dataclass(frozen=True)
class Stages(Job):
    """The stack of the switch benchmark, cut into stages of a pipeline as well."""

    def build(self, world: World) -> TrainState:
        """Builds this rank's stage under the names of the whole stack."""
        stage = world.coordinate("pp")
        if Course.is_reversed:
            stage = world.size("pp") - 1 - stage
        per_stage = self.num_blocks // world.size("pp")
        own = range(stage * per_stage, (stage + 1) * per_stage)
        model = nn.ModuleDict({str(number): FeedForward() for number in own})
        for block in model.values():
            if world.enabled("tp"):
                plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
                parallelize_module(block, world.mesh["tp"], plan)
            mesh = world.submesh("dp_replicate", "dp_shard")
            if mesh is not None:
                fully_shard(block, mesh=mesh)
        return TrainState(model, torch.optim.AdamW(model.parameters(), foreach=False))


class Course:
    """What build looks at beside its world."""

    is_reversed = False


@dataclass(frozen=True)
class Row:
    """One rank's part in one switch; the schema of the JSON output."""

    schema_version: int
    source: str
    target: str
    mode: str
    rank: int
    source_bytes: int
    target_bytes: int
    staging_bytes: int
    predicted_bytes: int
    measured_bytes: int
    stop_seconds: float


@dataclass(frozen=True)
class Curve:
    """Resident memory of one rank over a switch.

    Attributes:
        row: whose it is.
        begin_bytes: where it stood.
        seconds: since ``prepare`` was called.
        resident_bytes: at these times.
        switched_seconds: when the switch was called.
    """

    row: Row
    begin_bytes: int
    seconds: list[float]
    resident_bytes: list[int]
    switched_seconds: float


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def most_resident_bytes() -> int:
    """The most since it was forgotten."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def forget_most() -> None:
    """Has the kernel keep the most from now on."""
    Path("/proc/self/clear_refs").write_text("5")


class Watch:
    """Notes the resident memory of this process every few milliseconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.resident_bytes: list[int] = []
        self._begin = time.perf_counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def now(self) -> float:
        """Seconds since its begin."""
        return time.perf_counter() - self._begin

    def _watch(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            self.seconds.append(self.now())
            self.resident_bytes.append(resident_bytes())

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()


def layout_of(name: str) -> str:
    """The layout of one end of a pair, whose order of stages build is told."""
    Course.is_reversed = name == REVERSED
    return name.partition(" ")[0]


def state_bytes(session: dynatrain.Session) -> int:
    """Of parameters and moments of this rank; 0 where it idles."""
    if not session.active:
        return 0
    state, total = session.state, 0
    for param in state.model.parameters():
        for tensor in (param, *state.optimizer.state[param].values()):
            local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
            total += local.nbytes
    return total


def measured(session: dynatrain.Session, pair: tuple[str, str], mode: str) -> Curve:
    """One switch of a pair, from its source. Collective."""
    source_bytes = state_bytes(session)
    gc.collect()
    _native.trim_heap()
    dist.barrier()
    forget_most()
    begin = resident_bytes()
    with Watch() as watch:
        target = layout_of(pair[1])
        session.prepare(target)
        standing = session._part.targets.standing
        assert standing is not None
        predicted = standing.fresh_bytes + standing.streamed_bytes
        staging = standing.taken_staging_bytes
        del standing
        switched = watch.now()
        report = session.switch(target)
        most = most_resident_bytes()
    row = Row(
        SCHEMA_VERSION,
        *pair,
        mode=mode,
        rank=dist.get_rank(),
        source_bytes=source_bytes,
        target_bytes=state_bytes(session),
        staging_bytes=staging,
        predicted_bytes=predicted,
        measured_bytes=most - begin,
        stop_seconds=report.stop_seconds,
    )
    return Curve(row, begin, watch.seconds, watch.resident_bytes, switched)


def worker(rank: int, options: argparse.Namespace, folder: str) -> None:
    """One rank; leaves its curves in ``folder``."""
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(NUM_RANKS)}
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{options.port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=NUM_RANKS)
    job = Stages(max(NUM_RANKS, round(options.params / (8 * HIDDEN**2) / NUM_RANKS) * NUM_RANKS))
    curves = []
    for mode in options.modes:
        session = dynatrain.init(
            job.build,
            layout_of(PAIRS[0][0]),
            initialize=job.initialize,
            timeout_s=300,
            mode=mode,
            staging_budget_bytes=options.staging_mib << 20,
        )
        for pair in PAIRS:
            session.switch(layout_of(pair[0]))
            session.switch(layout_of(pair[1]))
            session.switch(layout_of(pair[0]))
            curves.append(asdict(measured(session, pair, mode)))
        session.close()
        del session
    Path(folder, f"{rank}.json").write_text(json.dumps(curves))
    dist.destroy_process_group()


def draw(curves: list[dict], path: str) -> None:
    """Resident memory over time, a column for each pair and a row for each mode."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    modes = sorted({each["row"]["mode"] for each in curves})
    size = (3.4 * len(PAIRS), 2.8 * len(modes))
    figure, axes = plt.subplots(len(modes), len(PAIRS), figsize=size, sharey="col", squeeze=False)
    for curve in curves:
        row = curve["row"]
        pair = PAIRS.index((row["source"], row["target"]))
        axis = axes[modes.index(row["mode"])][pair]
        color = f"C{row['rank']}"
        rise = [(each - curve["begin_bytes"]) / 2**20 for each in curve["resident_bytes"]]
        axis.plot(curve["seconds"], rise, color=color, label=f"rank {row['rank']}")
        axis.axhline(row["predicted_bytes"] / 2**20, color=color, linestyle=":", linewidth=1)
        axis.axvline(curve["switched_seconds"], color="0.7", linewidth=0.8)
        axis.set_title(f"{row['source']} → {row['target']}, {row['mode']}", fontsize=9)
        axis.set_xlabel("seconds since prepare()", fontsize=8)
        axis.tick_params(labelsize=8)
    for row_of_axes in axes:
        row_of_axes[0].set_ylabel("MiB above the source", fontsize=8)
    axes[0][0].legend(fontsize=7, title="dotted: predicted\ngrey: switch()", title_fontsize=7)
    figure.tight_layout()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def show(rows: list[dict]) -> None:
    """Prints the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="MiB of host memory beside the source; difference: measured less predicted")
    for column in ("source", "target", "mode", "rank"):
        table.add_column(column, no_wrap=True)
    for column in ("had", "gets", "staging", "predicted", "measured", "difference"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        names = ("source", "target", "staging", "predicted", "measured")
        numbers = [row[f"{name}_bytes"] / 2**20 for name in names]
        said = [str(row[name]) for name in ("source", "target", "mode", "rank")]
        difference = f"{numbers[4] - numbers[3]:+.1f}"
        table.add_row(*said, *(f"{number:.0f}" for number in numbers), difference)
    Console(width=max(110, Console().width)).print(table)


def main() -> None:
    """Runs the benchmark and prints its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--params", type=float, default=300e6, help="parameters, fp32")
    parser.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES))
    parser.add_argument("--staging-mib", type=int, default=64, help="staging budget per rank")
    parser.add_argument("--picture", help="a PNG to draw")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.stderr.write(
        f"# {platform.processor() or platform.machine()}, {os.cpu_count()} processors, "
        f"torch {torch.__version__}, dynatrain {dynatrain.__version__}, {NUM_RANKS} ranks, "
        f"{options.params:.3g} parameters fp32 + 2 moments, staging {options.staging_mib} MiB\n"
    )
    options.port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (options, folder), nprocs=NUM_RANKS)
        curves = [
            curve
            for rank in range(NUM_RANKS)
            for curve in json.loads(Path(folder, f"{rank}.json").read_text())
        ]
    order = {(pair, mode): n for n, pair in enumerate(PAIRS) for mode in MODES}
    curves.sort(
        key=lambda each: (
            order[(each["row"]["source"], each["row"]["target"]), each["row"]["mode"]],
            each["row"]["mode"],
            each["row"]["rank"],
        )
    )
    rows = [each["row"] for each in curves]
    if options.picture:
        draw(curves, options.picture)
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        show(rows)


if __name__ == "__main__":
    main()
