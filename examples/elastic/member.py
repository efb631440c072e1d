"""One process of the elastic demo: trains the demo's GPT for as long as it has a place.

python -m elastic.member HOST:PORT --secret-file FILE --steps 1000, with examples/ in PYTHONPATH.
What makes the job elastic are `join`, `recoverable` and the handler of SIGTERM.
"""

import argparse
import json
import signal
import sys
import time
from typing import Any

import dynatrain
from dynatrain.join import join
from gpt.job import Job, JobConfig


def say(kind: str, **facts: Any) -> None:
    """Write one JSON line that the demo reads."""
    sys.stdout.write(json.dumps({"kind": kind, **facts}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Take part until all steps are done, or until this process is let go."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("coordinator", metavar="HOST:PORT")
    parser.add_argument("--secret-file", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--pace-s", type=float, default=0.0, help="least time of a step")
    parser.add_argument("--snapshot-every", type=int, metavar="STEPS", help="copies to partners")
    parser.add_argument("--checkpoint-every", type=int, metavar="STEPS", help="files on disk")
    parser.add_argument("--checkpoint-dir", metavar="FOLDER", help="of those files")
    options = parser.parse_args()
    job = Job(JobConfig(total_steps=options.steps))
    session = join(
        job.build,
        options.coordinator,
        secret_file=options.secret_file,
        initialize=job.initialize,
        keep={"data": job.loader},
        device="cpu",
        snapshot_every=options.snapshot_every,
        checkpoint_every=options.checkpoint_every,
        checkpoint_dir=options.checkpoint_dir,
    )
    signal.signal(signal.SIGTERM, lambda *_: session.leave(grace_s=30))
    session.on_event(lambda event: say("event", what=event.kind, at=time.monotonic()))
    reports: list[dynatrain.SwitchReport] = []
    session.on_switch(reports.append)
    for step in session.steps(options.steps):
        begin, world = time.monotonic(), session.world
        with session.recoverable():
            loss = job.train_step(session.state, world).loss
            busy = time.monotonic() - begin
            time.sleep(max(0.0, options.pace_s - busy))
            where = {"rank": world.rank, "layout": str(world.layout), "epoch": world.epoch}
            times = {"begin": begin, "end": time.monotonic(), "busy": busy}
            say("step", step=step, loss=loss, **times, **where)
        while reports:  # told when the step is done: nobody waits for it
            report = reports.pop()
            if session.world.rank == 0:
                say("switch", **report.to_json())
    say("end", why=session.ended)
    session.close()


if __name__ == "__main__":
    main()
