"""Times a switch beside torch's distributed checkpoint and a raw ceiling, interleaved in one run.

Starts its own processes. Contenders, each on the same state and the same machine, in turn:

dynatrain-*      session.switch() to a prepared layout, and once more to one that is not, over
                 c10d (Gloo) or what --transport says; its staging registered with NCCL where
                 --register-staging says so; with --relabel among places that leave less to be
                 moved, of which all others but the checkpoints have the gain, too
dcp-tmpfs        torch.distributed.checkpoint, save in the source, load in the target, in tmpfs
c10d-per-tensor  each box that crosses as a message of its own, without cutting or joining tensors
c10d-ceiling     the bytes that cross between ranks, one large raw message per pair of ranks
c10d-ceiling-with-copies  the same, and what stays on a rank at another address as one plain copy
restart          with --restarts: a checkpoint as in dcp-tmpfs, and a new torchrun that loads it
copy-ceiling     with --device cpu: the bytes that each rank receives or copies, as one plain copy
                 in its own memory, all ranks at once; the ceiling of ranks that share a host
nccl-per-tensor  with --transport nccl: c10d-per-tensor over NCCL, on the GPU's own memory
device-copy      with --device cuda: the same on its GPU; the ceiling of ranks that share a GPU

With --hosts 2 the ranks are on hosts that are network namespaces: messages go by a virtual cable.
With --device cuda the state lies on GPUs, which ranks may share. Gloo's messages then start and end
in host memory: per tensor they are fetched and put back, the ceiling stays in host memory.
One switch ahead of the others is watched for the memory that it takes on rank 0's GPU.

A benchmark never asserts; it prints a table, or JSON as docs/reference/json.md describes it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp

import dynatrain
from contenders import (
    elems_to_copy,
    in_turn,
    per_tensor_messages,
    per_tensor_over_nccl,
    plain_copy,
    plan_moves,
    raw_messages,
    state_dict,
)
from device_memory import LeastFree, planned_bytes
from dynatrain import Layout, _native
from dynatrain.report import SCHEMA_VERSION
from gpu_ranks import free_port
from restarted import Restart
from stack_of_blocks import HIDDEN, Job

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from networks import Networks, enter

#: How the state travels in the switches of dynatrain.
WAYS = ("c10d", "shared_memory", "nccl", "cuda_ipc")
PAIRS = (
    ("dp=4", "dp=2,tp=2"),
    ("tp=4", "dp=2,tp=2"),
    ("dp=2,tp=2", "tp=4"),
    ("dp=4", "dp=2"),
)
OURS = "dynatrain"
PEERS = ("dcp-tmpfs", "c10d-per-tensor", "c10d-ceiling", "c10d-ceiling-with-copies")


@dataclass
class Samples:
    """Seconds of each run of one contender, slowest rank, and what the switch reported.

    ``cold_seconds`` is of the same switch with nothing prepared, empty for the other contenders.
    ``device_bytes`` are what a switch took on the GPU and what its plan said, of all ranks.
    """

    seconds: list[float] = field(default_factory=list)
    cold_seconds: list[float] = field(default_factory=list)
    report: dynatrain.SwitchReport | None = None
    device_bytes: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Asked:
    """Contenders that are not always there.

    ``restart`` is timed ``restarts`` times at most, as each takes as long as all others together.
    """

    nccl: dist.ProcessGroup | None = None
    restart: Restart | None = None
    restarts: int = 0


@dataclass
class Row:
    """One layout pair and contender; the schema of the JSON output."""

    schema_version: int
    source: str
    target: str
    contender: str
    seconds_min: float
    seconds_median: float
    seconds_first: float
    stop_seconds_median: float
    bytes_moved: int
    lower_bound_bytes: int
    plan_seconds: float
    staging_peak_bytes: int
    extra_peak_bytes: int
    device_peak_bytes: int
    planned_device_peak_bytes: int
    share_of_ceiling: float


def timed(work: Callable[[], object]) -> float:
    """Seconds from a common start to the last rank's return."""
    _native.trim_heap()
    dist.barrier()
    start = time.perf_counter()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    seconds = torch.tensor(time.perf_counter() - start, dtype=torch.float64)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return float(seconds)


def watched_switch(session: dynatrain.Session, target: str) -> tuple[int, int]:
    """Bytes that a switch took on the GPU at most, and what the plan said. Collective."""
    gc.collect()
    torch.cuda.empty_cache()
    dist.barrier()
    with LeastFree(session.device) as free:
        dist.barrier()
        session.prepare(target)
        planned = torch.tensor(planned_bytes(session))
        session.switch(target)
        torch.cuda.synchronize()
        dist.barrier()
    dist.all_reduce(planned)
    return free.taken_bytes, int(planned)


def run_pair(
    session: dynatrain.Session,
    pair: tuple[str, str],
    runs: int,
    folder: Path,
    asked: Asked = Asked(),
) -> dict[str, Samples]:
    """Runs all contenders ``runs`` times in turn, ending in the pair's source."""
    source, target = pair
    on_gpu = session.device.type == "cuda"
    copies = "device-copy" if on_gpu else "copy-ceiling"
    samples = {name: Samples() for name in (OURS, *PEERS, copies)}
    samples |= {"nccl-per-tensor": Samples()} if asked.nccl else {}
    samples |= {"restart": Samples()} if asked.restart else {}
    if session.layout != Layout.parse(source):
        session.switch(source)
    if on_gpu:
        samples[OURS].device_bytes = watched_switch(session, target)
        session.switch(source)
    for run in range(runs):
        seconds = timed(partial(dcp.save, state_dict(session), checkpoint_id=folder))
        if asked.restart is not None and run < asked.restarts:
            samples["restart"].seconds.append(seconds + timed(asked.restart))
            asked.restart.end()
        session.prepare(target)
        moves = plan_moves(session)
        received, kept = elems_to_copy(session, moves)
        samples[copies].seconds.append(timed(plain_copy(received + kept, session.device)))
        ours = samples[OURS]
        ours.seconds.append(timed(partial(switch_to, session, target, ours)))
        seconds += timed(partial(dcp.load, state_dict(session), checkpoint_id=folder))
        samples["dcp-tmpfs"].seconds.append(seconds)
        assert ours.report is not None
        if dist.get_rank() == 0:
            shutil.rmtree(folder)
        messages = per_tensor_messages(moves, session.device)
        samples["c10d-per-tensor"].seconds.append(timed(messages))
        del messages  # each contender has the memory to itself
        messages = raw_messages(ours.report.traffic)
        samples["c10d-ceiling"].seconds.append(timed(messages))
        both = in_turn(messages, plain_copy(kept, session.device))
        samples["c10d-ceiling-with-copies"].seconds.append(timed(both))
        del messages, both
        if asked.nccl is not None:
            over_nccl = per_tensor_over_nccl(moves, session.device, asked.nccl)
            samples["nccl-per-tensor"].seconds.append(timed(over_nccl))
        session.switch(source)
        ours.cold_seconds.append(timed(partial(session.switch, target)))
        session.switch(source)
    return samples


def switch_to(session: dynatrain.Session, target: str, samples: Samples) -> None:
    """Switches and keeps the report."""
    samples.report = session.switch(target)


def rows_of(pair: tuple[str, str], samples: dict[str, Samples], transport: str) -> list[Row]:
    """Summarises one pair."""
    report = samples[OURS].report
    assert report is not None
    on_host = "copy-ceiling" if transport.startswith("shared_memory") else "c10d-ceiling"
    ceiling = samples["device-copy" if "device-copy" in samples else on_host]
    rows = []
    for name, sample in samples.items():
        ours = name == OURS
        median = statistics.median(sample.seconds)
        rows.append(
            Row(
                SCHEMA_VERSION,
                *pair,
                contender=f"{name}-{transport}" if ours else name,
                seconds_min=min(sample.seconds),
                seconds_median=median,
                seconds_first=sample.seconds[0],
                stop_seconds_median=statistics.median(sample.cold_seconds or sample.seconds),
                bytes_moved=report.bytes_moved,
                lower_bound_bytes=report.lower_bound_bytes,
                plan_seconds=report.plan_seconds if ours else 0.0,
                staging_peak_bytes=report.staging_peak_bytes if ours else 0,
                extra_peak_bytes=report.extra_peak_bytes if ours else 0,
                device_peak_bytes=sample.device_bytes[0],
                planned_device_peak_bytes=sample.device_bytes[1],
                share_of_ceiling=statistics.median(ceiling.seconds) / median,
            )
        )
    return rows


def worker(rank: int, num_ranks: int, options: argparse.Namespace, folder: str) -> None:
    """One rank of the benchmark; rank 0 writes the rows."""
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(num_ranks)}
    os.environ |= {name: value.format(rank=rank) for name, value in options.env}
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if options.device == "cuda":
        device = torch.device("cuda", rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    address = f"tcp://127.0.0.1:{options.port}"
    if options.networks is not None:
        places, first_address = options.networks
        enter(places[rank * len(places) // num_ranks])
        address = f"tcp://{first_address}:{options.port}"
    # The store of real jobs; one of files looks for keys every 10 ms, in the middle of a switch.
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=num_ranks)
    job = Job(max(1, round(options.params / (8 * HIDDEN**2))))
    pairs = [(options.source, options.target)] if options.source else PAIRS
    session = dynatrain.init(
        job.build,
        pairs[0][0],
        initialize=job.initialize,
        timeout_s=300,
        device=device,
        transport=dynatrain.Nccl(register_staging=True)
        if options.register_staging
        else options.transport,
        verify=tuple(options.verify),
        staging_budget_bytes=options.staging_mib << 20,
        relabel=options.relabel,
    )
    nccl = None
    if options.transport == "nccl":
        nccl = dist.new_group(backend="nccl")
        dist.all_reduce(torch.ones(1, device=device), group=nccl)  # connects all ranks
    rows = []
    checkpoint = Path(folder) / "checkpoint"
    restart = Restart(job, pairs[0][1], checkpoint) if options.restarts else None
    for pair in pairs:
        asked = Asked(nccl, restart if pair == pairs[0] else None, options.restarts)
        samples = run_pair(session, pair, options.runs, checkpoint, asked)
        way = f"{options.transport}{'-registered' if options.register_staging else ''}"
        way += "-relabelled" if options.relabel else ""
        rows += rows_of(pair, samples, way)
        if rank == 0:
            Path(folder, "rows.json").write_text(json.dumps([asdict(row) for row in rows]))
    session.close()
    dist.destroy_process_group()


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--params", type=float, default=300e6, help="parameters, fp32")
    parser.add_argument("--source", help="one pair only: its source, e.g. dp=4")
    parser.add_argument("--target", help="one pair only: its target, e.g. dp=2,tp=2")
    parser.add_argument("--runs", type=int, default=5, help="runs of every contender")
    parser.add_argument(
        "--restarts", type=int, default=0, help="time so many restarts, of the first pair, too"
    )
    parser.add_argument("--staging-mib", type=int, default=256, help="staging budget per rank")
    parser.add_argument(
        "--verify", nargs="*", default=["sums"], help="what a switch verifies: sums fingerprint"
    )
    parser.add_argument(
        "--hosts",
        type=int,
        default=1,
        help="network namespaces that the ranks are in, in equal parts; takes root and iproute2",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the state")
    parser.add_argument("--transport", choices=WAYS, default="c10d")
    parser.add_argument(
        "--register-staging", action="store_true", help="NCCL knows the staging; nccl only"
    )
    parser.add_argument(
        "--relabel", action="store_true", help="ranks take the places of which they have most"
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        type=lambda text: tuple(text.split("=", 1)),
        metavar="NAME=VALUE",
        help="of each rank's environment, such as NCCL_HOSTID=host{rank}",
    )
    options = parser.parse_args()
    if options.register_staging and options.transport != "nccl":
        parser.error("--register-staging goes with --transport nccl")
    if (options.source is None) != (options.target is None):
        parser.error("--source and --target go together")
    return options


def show(rows: list[dict[str, object]]) -> None:
    """Prints the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="seconds, slowest rank; share: the ceiling's median over this median")
    for column in ("source", "target", "contender", "min", "median", "first", "share", "MiB moved"):
        table.add_column(column)
    for row in rows:
        numbers = [f"{row[f'seconds_{name}']:.3f}" for name in ("min", "median", "first")]
        moved = f"{int(str(row['bytes_moved'])) / 2**20:.0f}"
        names = [str(row[name]) for name in ("source", "target", "contender")]
        table.add_row(*names, *numbers, f"{row['share_of_ceiling']:.2f}", moved)
    Console().print(table)


def main() -> None:
    """Runs the benchmark and prints its rows."""
    options = parse()
    num_ranks = max(
        Layout.parse(layout).world_size
        for pair in ([(options.source, options.target)] if options.source else PAIRS)
        for layout in pair
    )
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.stderr.write(
        f"# {platform.processor() or platform.machine()}, {os.cpu_count()} processors, "
        f"torch {torch.__version__}, dynatrain {dynatrain.__version__}, {num_ranks} ranks, "
        f"{options.params:.3g} parameters fp32 + 2 moments, {options.runs} runs\n"
    )
    options.port = free_port()
    hosts = [f"host{number}" for number in range(options.hosts)]
    networks = Networks(*hosts) if options.hosts > 1 else None
    options.networks = None
    if networks is not None:
        places = [networks.place(host) for host in hosts]
        options.networks = (places, networks.addresses[hosts[0]])
    shm = Path("/dev/shm")
    folder = tempfile.mkdtemp(dir=shm if shm.is_dir() else None)
    try:
        mp.spawn(worker, (num_ranks, options, folder), nprocs=num_ranks)
        rows = json.loads(Path(folder, "rows.json").read_text())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if networks is not None:
            networks.remove()
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        show(rows)


if __name__ == "__main__":
    main()
