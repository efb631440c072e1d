"""One member of an elastic job: trains the small job and says what it does, one JSON line each."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

import training_jobs as jobs
from dynatrain import ElasticLoader, ElasticSampler, Layout, LayoutError
from dynatrain.elastic import saving
from dynatrain.join import join
from dynatrain.switch import moved

faulthandler.register(signal.SIGUSR1)
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")


#: From then on the training thread stands in its next step.
hangs = threading.Event()


def say(kind, **facts):
    sys.stdout.write(json.dumps({"kind": kind, **facts}) + "\n")


def tell_of_request(future):
    error = future.exception()
    target = None if error else future.result().target
    say("request", target=target, error=error and str(error))


def make_loader():
    """Batches of 11 of 53 samples: no size here divides them, nor does a batch divide an epoch."""
    sampler = ElasticSampler(53, 11, shuffle=False, uneven_shares=True)
    return ElasticLoader(range(53), sampler, micro_batch_size=4)


class OwnGroup:
    """A group of torch's that the script makes for itself in every world, and meets in."""

    def on_world(self, world):
        self.group = None if world is None else dist.new_group()

    def meet(self):
        dist.all_reduce(torch.ones(1), group=self.group)


def told_of(report):
    return {"prepared": report.prepared, "mode": report.mode}


def policy_of(layout):
    """Wants one layout, and waits until there are members for it."""
    if layout is None:
        return None
    size = Layout.parse(layout).world_size
    return lambda roster: layout if len(roster.available) >= size else None


def run_out_once(session, target):
    """Has memory run out where the state has arrived in ``target``, before this member votes."""
    vote = session._part.vote

    def fails_once(layout, epoch):
        if layout == target:
            session._part.vote = vote
            raise MemoryError("no memory here")
        vote.cast(layout, epoch)

    session._part.vote = replace(vote, cast=fails_once)


def disturb_stream(target, how):
    """Has the first state that streams to ``target`` meet what it may meet on its way here."""
    run, hand_over = moved._run, moved._hand_over
    left = [how]

    def is_now(standing, *hows):
        is_there = str(standing.blueprint.called.layout) == target and standing.blueprint.streams
        return is_there and left[-1:] and left[-1] in hows and left.pop()

    def disturbed(engine, standing, controls):
        if is_now(standing, "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if is_now(standing, "stopped"):
            os.kill(os.getpid(), signal.SIGSTOP)
        return run(engine, standing, controls)

    def refused(engine, standing, published):
        if is_now(standing, "killed late"):
            os.kill(os.getpid(), signal.SIGKILL)
        if is_now(standing, "refuses"):
            raise ValueError("this one takes nothing")
        hand_over(engine, standing, published)

    moved._run, moved._hand_over = disturbed, refused


def never_ahead(session):
    """Has no preparation beside training succeed here."""

    def refuse(*_):
        raise LayoutError("its tensors are others at each step")

    session._part.prepare_ahead = refuse


def write_slowly(seconds):
    """Has each checkpoint take so long on disk."""
    write = saving.write_entries

    def slowly(*given):
        time.sleep(seconds)
        return write(*given)

    saving.write_entries = slowly


def build(world):
    if str(world.layout) == os.environ.get("REFUSES"):
        raise ValueError(f"nobody can cut this model for {world.layout}")
    return jobs.build(world)


def main(coordinator, secret_file, total, hurry, timeout_s):
    loader = make_loader()
    own = OwnGroup() if "OWN_GROUP" in os.environ else None
    session = join(
        build,
        coordinator,
        secret_file=secret_file,
        initialize=jobs.initialize,
        keep={"data": loader, **({} if own is None else {"own": own})},
        policy=policy_of(os.environ.get("POLICY")),
        timeout_s=float(timeout_s),
        verify=("sums", "fingerprint"),
        snapshot_every=int(os.environ.get("SNAPSHOT_EVERY") or 0) or None,
        checkpoint_every=int(os.environ.get("CHECKPOINT_EVERY", 0)) or None,
        checkpoint_dir=os.environ.get("CHECKPOINT_DIR"),
        mode=os.environ.get("MODE", "retain"),
    )
    signal.signal(signal.SIGUSR2, lambda *_: hangs.set())
    signal.signal(signal.SIGTERM, lambda *_: session.leave(grace_s=60))
    session.on_switch(lambda report: say("switch", target=report.target, **told_of(report)))
    session.on_event(lambda event: say("event", what=event.kind, text=event.text))
    if "WRITES_S" in os.environ:
        write_slowly(float(os.environ["WRITES_S"]))
    if "NEVER_AHEAD" in os.environ:
        never_ahead(session)
    if "IN_STREAM" in os.environ:
        disturb_stream(*os.environ["IN_STREAM"].split(":"))
    run_out_once(session, os.environ.get("RUNS_OUT"))
    try:
        train(session, loader, own, total, hurry)
    finally:
        say("end", step=session.step, why=session.ended)
    if "GATHERS" in os.environ and session.ended[0] == "finished":
        gather(session.state.model)
    session.close()


def gather(model):
    """What a script does behind its loop that is to keep its model."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    whole = get_model_state_dict(model, options=options)
    if dist.get_rank() == 0:
        say("gathered", shapes={name: list(each.shape) for name, each in whole.items()})


def train(session, loader, own, total, hurry):
    wanted = os.environ.get("REQUESTS", "").split()
    for step in session.steps(int(total)):
        if step == 0 and "SEEDS" in os.environ:
            torch.manual_seed(1000)
        if wanted and step % 5 == 0:
            session.request(wanted.pop(0)).add_done_callback(tell_of_request)
        world, loss, draw = session.world, None, None
        with session.recoverable():
            if hangs.is_set():
                threading.Event().wait()
            if own is not None:
                own.meet()
            samples = [sample for piece in next(loader) for sample in piece.tolist()]
            draw = torch.rand(1).item()
            loss = jobs.train_step(session.state, world, step)
        if step == int(os.environ.get("BREAKS_AT", -1)):
            break
        if loss is None:
            say("cut", step=step)
            continue
        place = [world.rank, dist.get_rank(), dist.get_world_size()]
        said = {
            "loss": loss,
            "draw": draw,
            "layout": str(world.layout),
            "place": place,
            "samples": samples,
        }
        say("step", step=step, epoch=world.epoch, **said)
        if not Path(hurry).exists():
            time.sleep(0.15)  # until all has happened that a test wants to


if __name__ == "__main__":
    main(*sys.argv[1:])
