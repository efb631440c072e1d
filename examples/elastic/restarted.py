"""The same training the usual way: fixed processes, and a torch checkpoint between two starts.

Each process has RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun gives them. Between its
first and its last line dynatrain cuts the model for its layout, and does nothing else.
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import dynatrain
from gpt.job import Job, JobConfig


def say(kind: str, **facts: Any) -> None:
    """Write one JSON line that the demo reads."""
    sys.stdout.write(json.dumps({"kind": kind, **facts}) + "\n")
    sys.stdout.flush()


class Checkpoints:
    """The newest checkpoint of a job, in a folder that all its processes see."""

    def __init__(self, folder: Path, state: dynatrain.TrainState, job: Job) -> None:
        self.folder, self.state, self.job = folder, state, job
        self.latest = folder / "latest"

    def save(self, steps_done: int) -> None:
        """Write a checkpoint; collective."""
        name = f"step-{steps_done}"
        checkpoint.save(self._state_dict(), checkpoint_id=self.folder / name)
        if dist.get_rank() == 0:
            former = self.latest.read_text() if self.latest.exists() else name
            (self.folder / "next").write_text(name)
            (self.folder / "next").replace(self.latest)
            if former != name:
                shutil.rmtree(self.folder / former)

    def load(self) -> int:
        """Load the newest checkpoint, if there is one; returns the steps that are done."""
        if not self.latest.exists():
            return 0
        name, found = self.latest.read_text(), self._state_dict()
        checkpoint.load(found, checkpoint_id=self.folder / name)
        set_state_dict(
            self.state.model,
            self.state.optimizer,
            model_state_dict=found["model"],
            optim_state_dict=found["optimizer"],
        )
        self.state.scheduler.load_state_dict(found["scheduler"])
        self.job.loader.load_state_dict(found["data"])
        return int(name.removeprefix("step-"))

    def _state_dict(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.state.model, self.state.optimizer)
        scheduler, data = self.state.scheduler.state_dict(), self.job.loader.state_dict()
        return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "data": data}


def is_told_to_stop(file: Path) -> bool:
    """Whether rank 0 sees the file; the same answer on every rank."""
    found = torch.tensor([int(dist.get_rank() == 0 and file.exists())])
    dist.broadcast(found, 0)
    return bool(found)


def main() -> None:
    """Train from the newest checkpoint to a step, or until the file `stop` is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layout", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--until", type=int, required=True, help="end after so many of them")
    parser.add_argument("--pace-s", type=float, default=0.0, help="least time of a step")
    parser.add_argument("--folder", type=Path, required=True, help="with checkpoints, and `stop`")
    parser.add_argument("--every", type=int, required=True, help="steps between two checkpoints")
    parser.add_argument("--world", type=int, default=0, help="number of this start")
    options = parser.parse_args()
    dist.init_process_group("gloo")
    job = Job(JobConfig(total_steps=options.steps))
    keep = {"data": job.loader}
    layout, initialize = options.layout, job.initialize
    session = dynatrain.init(job.build, layout, initialize=initialize, keep=keep, device="cpu")
    state, world = session.state, session.world
    checkpoints = Checkpoints(options.folder, state, job)
    where = {"rank": world.rank, "layout": layout, "epoch": options.world, "pid": os.getpid()}
    for step in range(checkpoints.load(), options.until):
        begin = time.monotonic()
        loss = job.train_step(state, world).loss
        time.sleep(max(0.0, begin + options.pace_s - time.monotonic()))
        say("step", step=step, loss=loss, begin=begin, end=time.monotonic(), **where)
        is_last = is_told_to_stop(options.folder / "stop")
        if is_last or (step + 1) % options.every == 0:
            begin = time.monotonic()
            checkpoints.save(step + 1)
            say("save", begin=begin, end=time.monotonic())
        if is_last:
            break
    session.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
