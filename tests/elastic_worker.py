"""One member of an elastic job: trains the small job and says what it does, one JSON line each."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from pathlib import Path

import torch.distributed as dist

import training_jobs as jobs
from dynatrain.join import join

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")


def say(kind, **facts):
    sys.stdout.write(json.dumps({"kind": kind, **facts}) + "\n")


def main(coordinator, secret_file, total, hurry, timeout_s):
    session = join(
        jobs.build,
        coordinator,
        secret_file=secret_file,
        initialize=jobs.initialize,
        timeout_s=float(timeout_s),
        verify=("sums", "fingerprint"),
    )
    signal.signal(signal.SIGTERM, lambda *_: session.leave(grace_s=60))
    session.on_switch(lambda report: say("switch", target=report.target, stop=report.stop_seconds))
    for step in session.steps(int(total)):
        world, loss = session.world, None
        with session.recoverable():
            loss = jobs.train_step(session.state, world, step)
        if loss is None:
            say("cut", step=step)
            continue
        place = [world.rank, dist.get_rank(), dist.get_world_size()]
        facts = {"layout": str(world.layout), "place": place, "epoch": world.epoch}
        say("step", step=step, loss=loss, **facts)
        if not Path(hurry).exists():
            time.sleep(0.15)  # until all has happened that a test wants to
    say("end", step=session.step, why=session.ended)
    session.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
