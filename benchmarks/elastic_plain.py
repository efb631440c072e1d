"""One rank of a job whose processes are all there, and which switches between prepared layouts.

What an elastic job's planned change is held against: the same model, state and layouts, and nobody
comes or goes. torchrun starts it; it says what a member of the elastic demo says.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from torch import distributed as dist

import dynatrain

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))  # whose `elastic` is meant below

from elastic.member import say
from gpt.job import Job, JobConfig


def main() -> None:
    """Trains in each of the layouts for some steps, and switches to the next one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layouts", nargs="+")
    parser.add_argument("--apart", type=int, required=True, help="steps in each layout")
    options = parser.parse_args()
    dist.init_process_group("gloo")
    total = options.apart * len(options.layouts)
    job = Job(JobConfig(total_steps=total))
    session = dynatrain.init(
        job.build,
        options.layouts[0],
        initialize=job.initialize,
        keep={"data": job.loader},
        device="cpu",
    )
    for step in session.steps(total):
        begin, world = time.monotonic(), session.world
        loss = job.train_step(session.state, world).loss
        where = {"rank": world.rank, "layout": str(world.layout), "epoch": world.epoch}
        say("step", step=step, loss=loss, begin=begin, end=time.monotonic(), **where)
        number, steps_done = divmod(step + 1, options.apart)
        if number < len(options.layouts):
            if steps_done == options.apart // 2 and number + 1 < len(options.layouts):
                session.prepare(options.layouts[number + 1])
            elif steps_done == 0:
                session.switch(options.layouts[number])
    session.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
