"""One elastic job that is disturbed at random: members killed, stopped, drained.

Members are forked from a process that has torch loaded, so that a new one is there at once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

import training_jobs as jobs
from dynatrain import Error, TrainState
from dynatrain.elastic.addresses import addresses_of
from dynatrain.elastic.ask import ask
from dynatrain.elastic.line import Line
from dynatrain.elastic.secret import read_secret
from dynatrain.switch import moved
from elastic_jobs import TIMEOUT_S, Job

HSDP = "dp=2,dp_replicate=2"
LAYOUTS = (HSDP, "dp_replicate=3", "dp_replicate=2", "dp=1")
TOTAL = 1200
#: Members that are kept alive: as many as the largest layout takes, and spares.
NUM_MEMBERS, NUM_TRAINING = 6, 4
#: Who was heard of since does not stand: three heartbeats, and less than a loss takes.
HEARD_S = 1.5
#: As long takes the state to move where it is streamed.
_STREAM_S = 0.3
#: What happens, and how often among all that does.
EVENTS = {
    "kill": 50,
    "kill two": 6,
    "stop": 16,
    "stop for long": 8,
    "coordinator": 8,
    "drain": 5,
    "resize": 7,
}


def build(world):
    """The tests' small model, with whole replicas where only ``dp_replicate`` is enabled."""
    model = jobs.Mlp()
    if world.world_size > 1:
        mesh = world.mesh_over("dp_replicate", "dp_shard")
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=500)
    return TrainState(model=model, optimizer=optimizer, scheduler=scheduler)


def train_step(state, world, step):
    """One step on noise, of which nothing can be learnt: its loss tells the state of before."""
    generator = torch.Generator().manual_seed(1000 + step)
    batch = torch.randn(24, jobs.WIDTH, generator=generator)
    wanted = torch.randn(24, 7, generator=generator)
    dp = world.size("dp_replicate") * world.size("dp_shard")
    index = world.coordinate("dp_replicate") * world.size("dp_shard") + world.coordinate("dp_shard")
    loss = (state.model(batch.chunk(dp)[index]) - wanted.chunk(dp)[index]).square().mean()
    loss.backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.scheduler.step()
    return loss.item()


def stream_slowly():
    """Has the bytes of each switch take a moment, so that something happens in it."""
    run = moved._run

    def slowly(*given):
        time.sleep(_STREAM_S)
        return run(*given)

    moved._run = slowly


def member(address, secret, told, hurry, options):
    """Takes part in the job, and writes what it does to the file ``told``."""
    from dynatrain.join import join

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with Path(told).open("a", buffering=1) as file:

        def say(**facts):
            file.write(json.dumps(facts) + "\n")

        os.dup2(file.fileno(), 2)
        if options["mode"] == "stream":
            stream_slowly()
        session = join(
            build,
            address,
            secret_file=secret,
            initialize=jobs.initialize,
            timeout_s=float(TIMEOUT_S),
            verify=("sums", "fingerprint"),
            **options,
        )
        try:
            for step in session.steps(TOTAL):
                world, loss = session.world, None
                with session.recoverable():
                    loss = train_step(session.state, world, step)
                if loss is not None:
                    place = [dist.get_rank(), world.world_size]
                    say(step=step, loss=loss, place=place, epoch=world.epoch)
                if not Path(hurry).exists():
                    time.sleep(0.1)
        finally:
            say(ended=session.ended)
        session.close()


class Member:
    """A process of the job, and what it has written."""

    def __init__(self, context, job, number, options):
        self.path = job.folder / f"member-{number}"
        files = (str(job.secret), str(self.path), str(job.hurry))
        args = (job.address, *files, options)
        self.process = context.Process(target=member, args=args, daemon=True)
        self.process.start()
        self.is_held = False

    def told(self):
        """Its lines that are whole, without what a process writes to its standard error."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def signalled(self, number):
        if self.process.is_alive():  # else its number may be another process's by now
            os.kill(self.process.pid, number)


class Chaos:
    """Disturbs a job, by a seed.

    Args:
        folder: for its files.
        seed: of what happens; members of a job with an odd one make snapshots, and stream where it
            is a multiple of three.
    """

    def __init__(self, folder, seed):
        self.random = random.Random(seed)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["torch", "torch.distributed.fsdp", "elastic_chaos"])
        self.job = Job(folder, LAYOUTS)
        streams = seed % 6 == 3  # a death on the way takes what has no other owner with it
        self.options = {
            "snapshot_every": 15 if seed % 2 else None,
            "mode": "stream" if streams else "retain",
        }
        self.members = []
        self.happened = []
        self._to_wake = []
        self._held_at = -HEARD_S
        self.refill()

    def refill(self):
        """Starts members until as many live as are wanted."""
        while len(self.living()) < NUM_MEMBERS:
            made = Member(self.context, self.job, len(self.members), self.options)
            self.members.append(made)

    def living(self):
        return [each for each in self.members if each.process.is_alive() and not each.is_held]

    def steps(self):
        """One past the last step that any member has told of."""
        said = [each["step"] for one in self.members for each in one.told() if "step" in each]
        return max(said, default=-1) + 1

    def await_progress(self, seconds=90):
        """Waits until the job has gone on; fails with the coordinator's words where it does not."""
        before, until = self.steps(), time.monotonic() + seconds
        while self.steps() < before + 3:
            if time.monotonic() > until or self._is_gone():
                raise AssertionError(f"{self.happened[-8:]}\n{self.status()}\n{self._ends()}")
            self._wake()
            self.refill()
            time.sleep(0.2)

    def _is_gone(self):
        """Whether those who wait have been told that nothing can go on."""
        said = (each.told()[-1:] for each in self.members[-NUM_MEMBERS:])
        return any("state-gone" in each.get("ended", "") for last in said for each in last)

    def _ends(self):
        """The last words of those that have ended, in the order of their ends, and of who lives."""
        there = [each for each in self.members if each.path.exists()]
        there.sort(key=lambda each: (each.process.is_alive(), each.path.stat().st_mtime))
        words = [f"{each.path.name}: {each.path.read_text()[-1200:]}" for each in there]
        return "\n".join([*words[:8], "...", *self.job.coordinator.lines[-30:]])

    def ask(self, **question):
        """What the coordinator answers; nothing where it refuses or is not there."""
        with suppress(Error):
            line = Line(addresses_of(self.job.address), read_secret(self.job.secret), TIMEOUT_S)
            return ask(line, question)
        return {}

    def status(self):
        return self.ask(ask="status")

    def is_safe_to_lose(self):
        """Whether every part of the state has another owner than any one member, for sure."""
        status = self.status()
        if not status or status["phase"] != "steady":
            return False
        if time.monotonic() < self._held_at + HEARD_S:
            return False  # nobody may have noticed yet
        world = status["world"]
        has_come = self.options["mode"] == "retain" or self._has_stepped(world["epoch"])
        return world["layout"] != "dp=1" and has_come and self._all_train(status)

    def _has_stepped(self, epoch):
        """Whether a step was done in that world: then all of a state that is streamed is there."""
        told = (each for one in self.members for each in one.told())
        return any("step" in each and each["epoch"] == epoch for each in told)

    def _all_train(self, status):
        """Whether the members of the world train, one that stands still for long not among them."""
        return all(
            each["epoch"] == status["world"]["epoch"] and each["last_heard_ms"] < 1000 * HEARD_S
            for each in status["members"]
            if each["role"] == "member"
        )

    def disturb(self):
        """Does one thing to the job, at a random moment."""
        time.sleep(self.random.uniform(0, 0.6))
        kind = self.random.choices([*EVENTS], [*EVENTS.values()])[0]
        self.happened.append(kind)
        getattr(self, "_" + kind.replace(" ", "_"))()
        self._wake()
        self.refill()

    def _victim(self):
        return self.random.choice(self.living())

    def _when_safe(self):
        while not self.is_safe_to_lose():
            self.await_progress()

    def _kill(self):
        self._when_safe()
        time.sleep(self.random.uniform(0, 0.3))
        self._end_of(self._victim())

    def _kill_two(self):
        """A member and a spare or another member; never two that alone hold a part."""
        self._when_safe()
        status = self.status()
        if status["world"]["layout"] == "dp_replicate=3":
            for victim in self.random.sample(self.living(), 2):
                self._end_of(victim)
        else:
            self._kill()

    def _end_of(self, victim):
        """Kills it; on a busy machine it may hold its connections on for a while."""
        victim.signalled(signal.SIGKILL)
        victim.process.join(30)

    def _stop(self):
        victim = self._victim()
        victim.signalled(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.02, TIMEOUT_S / 24))
        victim.signalled(signal.SIGCONT)

    def _stop_for_long(self):
        self._when_safe()
        victim = self._victim()
        victim.signalled(signal.SIGSTOP)
        victim.is_held, self._held_at = True, time.monotonic()
        self._to_wake.append((time.monotonic() + TIMEOUT_S / 6, victim))

    def _wake(self):
        due = [each for at, each in self._to_wake if at < time.monotonic()]
        self._to_wake = [(at, each) for at, each in self._to_wake if each not in due]
        for victim in due:
            victim.signalled(signal.SIGCONT)

    def _coordinator(self):
        self.job.coordinator.kill()
        time.sleep(self.random.uniform(0, 1))
        self.job.coordinator = self.job.coordinate(listen=self.job.address)

    def _drain(self):
        self.ask(ask="drain", rank=0)

    def _resize(self):
        self.ask(ask="resize", layout=self.random.choice([*LAYOUTS[:3], ""]))

    def finish(self, seconds=240):
        """Lets the job end; returns the members that ended with its last step."""
        self.ask(ask="resize", layout="")
        self.job.hurry.touch()
        until = time.monotonic() + seconds
        while any(each.process.is_alive() for each in self.members) and time.monotonic() < until:
            self._wake()
            time.sleep(0.2)
        return [
            each
            for each in self.members
            if each.told() and each.told()[-1].get("ended", [""])[0] == "finished"
        ]

    def end(self):
        for each in self.members:
            each.signalled(signal.SIGKILL)
        for process in self.job.processes:
            process.kill()

    def losses(self):
        """By step, the loss that the last world that did it has told; None where not all have."""
        of_step = {}
        for said in (each for one in self.members for each in one.told() if "step" in each):
            of_step.setdefault(said["step"], {}).setdefault(said["epoch"], []).append(said)
        found = []
        for step in range(TOTAL):
            worlds = of_step.get(step, {})
            shares = worlds[max(worlds)] if worlds else []
            whole = shares and len(shares) == shares[0]["place"][1]
            found.append(sum(each["loss"] for each in shares) / len(shares) if whole else None)
        return found
