"""Trains a small GPT with PyTorch and changes its parallel layout while it trains.

torchrun --nproc-per-node 4 examples/train_gpt.py --demo

The training code is in gpt/ and would train without dynatrain; what makes the job switchable is
`Job.build`, `dynatrain.init`, and the two calls in `train` below.
"""

import argparse
import json
import os
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import distributed as dist

import dynatrain
from dynatrain import Layout, SwitchReport
from gpt import through_host
from gpt.display import Display
from gpt.job import Job, JobConfig
from gpt.model import SIZES

SCHEMA_VERSION = 1
RANK = int(os.environ.get("RANK", "0"))
LARGEST_GAP = 1e-3
PREPARE_AHEAD = 4  # steps before a switch at which its target is built and planned
LAYOUTS = {  # by number of processes
    1: "dp=1",
    2: "dp=2;tp=2;pp=2;dp=2",
    4: "dp=4;dp=2,tp=2;tp=2,pp=2;pp=4;dp=2,pp=2;tp=4;dp=4;dp=3;dp=4",
    8: "dp=2,tp=2,pp=2;dp=4,pp=2;tp=4,pp=2;dp=2,tp=2,pp=2",
}


@dataclass
class Run:
    """What one run leaves behind; filled on rank 0, which is active in every layout."""

    layouts: list[Layout]
    steps_per_layout: int
    losses: list[float] = field(default_factory=list)
    switches: list[SwitchReport] = field(default_factory=list)


def train(config: JobConfig, run: Run, device: torch.device, display: Display) -> None:
    """Train `config.total_steps` steps and switch after every `run.steps_per_layout` of them."""
    job = Job(config)
    session = dynatrain.init(
        job.build,
        run.layouts[0],
        initialize=job.initialize,
        keep={"data": job.loader},
        device=device,
        verify=("sums", "fingerprint"),
    )
    for step in session.steps(config.total_steps):  # on a rank that idles it waits for its turn
        result = job.train_step(session.state, session.world)
        run.losses.append(result.loss)
        display.step(step + 1, result.loss, session.layout)

        phase, steps_done = divmod(step + 1, run.steps_per_layout)
        if steps_done == 0 and phase < len(run.layouts):
            report = dynatrain.switch_parallelism(run.layouts[phase])
            run.switches.append(report)
            display.switch(report)
        first_is_cold = phase > 0
        # Never behind a switch in the same step: ranks that joined are in the next one.
        at_hand = steps_done == max(1, run.steps_per_layout - PREPARE_AHEAD)
        if first_is_cold and at_hand and phase + 1 < len(run.layouts):
            session.prepare(run.layouts[phase + 1])
    session.close()


def train_and_compare(config: JobConfig, layouts: list[Layout], args: argparse.Namespace) -> bool:
    """Train, in a demo once more without a switch; False when the two runs differ."""
    display = Display(config, quiet=RANK != 0)
    device = start_processes(args.backend, args.device)
    switching = Run(layouts, args.steps_per_layout)
    still = Run(layouts[:1], args.steps_per_layout)
    for run in (switching, still) if args.demo else (switching,):
        display.start(run.layouts)
        train(config, run, device, display)
        display.stop()
    if RANK != 0 or not args.demo:
        return True
    return conclude(switching, still, display, args.out)


def conclude(switching: Run, still: Run, display: Display, out: Path) -> bool:
    """Write the summary and the pictures; False when the runs differ by more than rounding."""
    gaps = [abs(a - b) for a, b in zip(switching.losses, still.losses, strict=True)]
    summary = {
        "schema_version": SCHEMA_VERSION,
        "steps": len(gaps),
        "loss_gap_max": max(gaps),
        "switches": [without_timeline(report) for report in switching.switches],
        "losses": switching.losses,
        "losses_without_switch": still.losses,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    names = [str(layout) for layout in switching.layouts]
    display.compare(names, switching.losses, still.losses)
    files = [out / "summary.json", *draw(switching, still, out)]
    display.line(f"Written: {', '.join(map(str, files))}")
    if max(gaps) > LARGEST_GAP:
        display.line(f"[red]The gap is larger than rounding explains ({LARGEST_GAP:.0e})[/]")
    same_bits = all(s.fingerprint_before == s.fingerprint_after for s in switching.switches)
    return same_bits and max(gaps) <= LARGEST_GAP


def draw(switching: Run, still: Run, out: Path) -> list[Path]:
    """Draw the pictures, where there is matplotlib; return their files."""
    try:
        from gpt import pictures
    except ModuleNotFoundError as missing:
        sys.stderr.write(f"no pictures were drawn: there is no {missing.name}\n")
        return []
    files = [out / "losses.png", out / "timeline.png"]
    pictures.draw_losses(files[0], switching.losses, still.losses, switching.switches)
    longest = max(switching.switches, key=lambda report: report.stop_seconds)
    pictures.draw_timeline(files[1], longest)
    return files


def without_timeline(report: SwitchReport) -> dict[str, object]:
    """Return the report as plain data, less its hundreds of spans."""
    return {key: value for key, value in report.to_json().items() if key != "timeline"}


def parse_arguments(num_processes: int) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--demo", action="store_true", help="train once more without a switch and compare")
    add("--layouts", default=LAYOUTS.get(num_processes), help="such as 'dp=4;dp=2,tp=2;tp=4'")
    add("--no-switch", action="store_true", help="stay in the first layout")
    add("--steps-per-layout", type=int, default=12)
    add("--size", choices=SIZES, default="tiny")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("out/demo"), help="where the demo leaves its files")
    backends = ("gloo", "nccl", through_host.BACKEND)
    add("--backend", choices=backends, default="gloo", help="of the training's groups")
    add("--device", choices=("cpu", "cuda"), help="cuda with nccl, else cpu; ranks may share GPUs")
    args = parser.parse_args()
    if args.layouts is None:
        parser.error(f"name the layouts for {num_processes} processes with --layouts")
    args.device = args.device or ("cuda" if args.backend == "nccl" else "cpu")
    if (args.backend, args.device) == ("nccl", "cpu"):
        parser.error("NCCL trains on GPUs only")
    if (args.backend, args.device) == ("gloo", "cuda"):
        args.backend = through_host.BACKEND  # Gloo itself sends no memory of a GPU
    if args.demo and (args.no_switch or ";" not in args.layouts):
        parser.error("--demo compares a run that switches with one that does not")
    return args


def start_processes(backend: str, device_type: str) -> torch.device:
    """Join the process group; returns where this process trains."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))
    device = torch.device("cpu")
    if device_type == "cuda":
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if backend == through_host.BACKEND:
        through_host.register()
    if "RANK" in os.environ:  # under torchrun; dynatrain.init starts a lone process by itself
        dist.init_process_group("cpu:gloo,cuda:nccl" if backend == "nccl" else backend)
    return device


def main() -> int:
    """Run the job; the exit status is 1 when a switch changed the training."""
    # Under TP the logits are a view of a gathered tensor, and nothing writes to them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    args = parse_arguments(int(os.environ.get("WORLD_SIZE", "1")))
    layouts = [Layout.parse(text) for text in args.layouts.split(";")]
    total_steps = args.steps_per_layout * len(layouts)
    config = JobConfig(total_steps=total_steps, model=SIZES[args.size], seed=args.seed)
    same = train_and_compare(config, layouts[:1] if args.no_switch else layouts, args)
    dist.destroy_process_group()
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
