"""Times a switch of parameters alone beside Megatron-Core's resharding of the same ones.

Needs megatron-core 0.19.2 (Python 3.12 or newer), in an environment of its own:

    python3.12 -m venv out/megatron && out/megatron/bin/pip install . rich megatron-core==0.19.2
    out/megatron/bin/python benchmarks/beside_megatron.py

Starts its own processes, on CPUs over Gloo. In each run, one after the other:

dynatrain-*      session.switch() to a prepared layout
megatron-core    `reshard_model_weights` by its GlooCopyService, into a model whose memory is there;
                 its plan is made in the first run and kept

Megatron-Core reshards GPUs' memory: what it asks of torch.cuda (streams, pinned memory) is replaced
by nothing, which only leaves work out. It moves neither optimizer state nor what lies in shards of
data parallel ranks, so the layouts differ in tensor parallelism. Both targets are compared.
A benchmark never asserts; it prints a table, or JSON as docs/reference/json.md describes it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import dynatrain
from dynatrain import Layout, TrainState, World
from dynatrain.report import SCHEMA_VERSION
from gpu_ranks import free_port
from stack_of_blocks import HIDDEN, FeedForward
from switch import timed

PAIRS = (("tp=4", "dp_replicate=2,tp=2"), ("dp_replicate=2,tp=2", "tp=4"))
NUM_RANKS = 4
#: Which dimension of a weight Megatron-Core calls its partition.
PARTITION = {"up.weight": 0, "down.weight": 1}


@dataclass
class Row:
    """One pair and contender; the schema of the JSON output."""

    schema_version: int
    source: str
    target: str
    contender: str
    seconds_min: float
    seconds_median: float
    seconds_first: float
    bytes_moved: int
    equal: bool


@dataclass(frozen=True)
class Parameters:
    """Blocks that are cut over tp and whole in each replica, and no optimizer's state."""

    num_blocks: int

    def build(self, world: World) -> TrainState:
        """Builds the stack; nothing is ever computed with it."""
        model = nn.ModuleList(FeedForward() for _ in range(self.num_blocks))
        if world.enabled("tp"):
            for block in model:
                plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
                parallelize_module(block, world.mesh["tp"], plan)
        return TrainState(model)

    @staticmethod
    def initialize(state: TrainState, world: World) -> None:
        """Numbers that differ from shard to shard, and are equal in replicas."""
        for param in locals_of(state.model).values():
            seed = world.coordinate("tp") if param.dim() == 2 else NUM_RANKS
            param.uniform_(generator=torch.Generator().manual_seed(seed))


def locals_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """What this rank holds of each parameter."""
    return {
        name: param.to_local() if isinstance(param, DTensor) else param.detach()
        for name, param in ((n, p.detach()) for n, p in model.named_parameters())
    }


class MegatronModule(nn.Module):
    """Tensors as Megatron-Core's planner wants to see them.

    Args:
        tensors: what this rank holds, by name.
        groups: ``tp`` and ``dp`` of the layout that they are in.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], groups: SimpleNamespace) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_moe_experts=None)
        self.pg_collection = groups
        for name, tensor in tensors.items():
            param = nn.Parameter(tensor, requires_grad=False)
            partition = next((d for end, d in PARTITION.items() if name.endswith(end)), None)
            if partition is not None:
                param.tensor_model_parallel, param.partition_dim = True, partition
            self.register_parameter(name.replace(".", "_"), param)


def groups_of(layout: str) -> SimpleNamespace:
    """Tensor and data parallel groups of this rank; all ranks make all of them."""
    tp = Layout.parse(layout).size("tp")
    rows = [list(range(first, first + tp)) for first in range(0, NUM_RANKS, tp)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    mine, _ = dist.new_subgroups_by_enumeration(rows)
    other, _ = dist.new_subgroups_by_enumeration(columns)
    return SimpleNamespace(tp=mine, dp=other, pp=None, ep=None)


@contextlib.contextmanager
def without_cuda() -> Iterator[None]:
    """Makes nothing of streams and of pinned memory."""
    empty = torch.empty
    stream = mock.MagicMock()

    def pageable(*size: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return empty(*size, **options)

    cuda = {"Stream": stream, "current_stream": stream, "synchronize": mock.MagicMock()}
    with (
        mock.patch.multiple(torch.cuda, stream=lambda _: contextlib.nullcontext(), **cuda),
        mock.patch.object(torch, "empty", pageable),
    ):
        yield


class Megatron:
    """Megatron-Core's resharding of one pair.

    Args:
        source: layout of what is read.
        target: layout of what is written.
    """

    def __init__(self, source: str, target: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what else could be installed
            from megatron.core.resharding import refit
            from megatron.core.resharding.copy_services.gloo_copy_service import GlooCopyService

        self._reshard = refit.reshard_model_weights
        self._groups = groups_of(source), groups_of(target)
        self._target = target
        with without_cuda():
            self._service = GlooCopyService()

    def work(self, held: dict[str, torch.Tensor]) -> tuple[Callable[[], None], nn.Module]:
        """The call that reshards what is held, and the module that it fills."""
        shapes = {name: self._shape(name, tensor) for name, tensor in held.items()}
        target = {name: torch.zeros(shape) for name, shape in shapes.items()}
        modules = [
            MegatronModule(tensors, groups)
            for tensors, groups in zip((held, target), self._groups, strict=True)
        ]

        def reshard() -> None:
            with without_cuda():
                self._reshard(*modules, service=self._service)

        return reshard, modules[1]

    def _shape(self, name: str, tensor: torch.Tensor) -> list[int]:
        shape = list(tensor.shape)
        for end, dim in PARTITION.items():
            if name.endswith(end):
                shape[dim] = 4 * HIDDEN // Layout.parse(self._target).size("tp")
        return shape


def run_pair(session: dynatrain.Session, pair: tuple[str, str], runs: int, ours: str) -> list[Row]:
    """Times both ``runs`` times in turn, ending in the pair's target."""
    source, target = pair
    if session.layout != Layout.parse(source):
        session.switch(source)
    megatron = Megatron(source, target)
    seconds: dict[str, list[float]] = {ours: [], "megatron-core": []}
    equal, reports = True, []
    for run in range(runs):
        if run:
            session.switch(source)
        reshard, filled = megatron.work(locals_of(session.state.model))
        seconds["megatron-core"].append(timed(reshard))
        session.prepare(target)
        seconds[ours].append(timed(lambda: reports.append(session.switch(target))))
        held = locals_of(session.state.model).values()
        equal &= all(map(torch.equal, held, filled.parameters()))
        del reshard, filled
    told = torch.tensor(int(equal))
    dist.all_reduce(told, op=dist.ReduceOp.MIN)
    return [
        Row(
            SCHEMA_VERSION,
            *pair,
            contender=name,
            seconds_min=min(samples),
            seconds_median=statistics.median(samples),
            seconds_first=samples[0],
            bytes_moved=reports[-1].bytes_moved,
            equal=bool(told),
        )
        for name, samples in seconds.items()
    ]


def worker(rank: int, options: argparse.Namespace, output: str) -> None:
    """One rank of the benchmark; rank 0 writes the rows."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{options.port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=NUM_RANKS)
    job = Parameters(max(1, round(options.params / (8 * HIDDEN**2))))
    session = dynatrain.init(
        job.build,
        PAIRS[0][0],
        initialize=job.initialize,
        timeout_s=300,
        device="cpu",
        transport=options.transport,
    )
    rows = [
        row
        for pair in PAIRS
        for row in run_pair(session, pair, options.runs, f"dynatrain-{options.transport}")
    ]
    if rank == 0:
        Path(output).write_text(json.dumps([asdict(row) for row in rows]))
    session.close()
    dist.destroy_process_group()


def show(rows: list[dict[str, object]]) -> None:
    """Prints the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="seconds, slowest rank, parameters alone")
    for column in ("source", "target", "contender", "min", "median", "first", "equal"):
        table.add_column(column)
    for row in rows:
        numbers = [f"{row[f'seconds_{name}']:.3f}" for name in ("min", "median", "first")]
        names = [str(row[name]) for name in ("source", "target", "contender")]
        table.add_row(*names, *numbers, str(row["equal"]))
    Console().print(table)


def main() -> None:
    """Runs the benchmark and prints its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--params", type=float, default=300e6, help="parameters, fp32")
    parser.add_argument("--runs", type=int, default=5, help="runs of both")
    parser.add_argument("--transport", choices=("c10d", "shared_memory"), default="c10d")
    options = parser.parse_args()
    if importlib.util.find_spec("megatron") is None:
        sys.stderr.write("skipped: megatron-core is not in this environment; see --help\n")
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options.port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "rows.json")
        mp.spawn(worker, (options, str(output)), nprocs=NUM_RANKS)
        rows = json.loads(output.read_text())
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        show(rows)


if __name__ == "__main__":
    main()
