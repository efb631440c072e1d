"""The elastic run: its coordinator, its members, and what happens to them."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .processes import DEADLINE_S, Process, environment_of, wait_until

#: Whoever is killed, another one holds the same part of the state.
LAYOUTS = {4: "dp=2,dp_replicate=2", 3: "dp_replicate=3", 2: "dp_replicate=2"}


@dataclass(frozen=True)
class Kind:
    """What may happen to a job.

    Attributes:
        name: as `--events` has it.
        words: for the reader; {n} is how many.
        more: by how many processes the world grows.
        is_loss: whether nobody could save anything before.
    """

    name: str
    words: str
    more: int
    is_loss: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        Kind("join2", "2 processes join", 2),
        Kind("join", "1 process joins", 1),
        Kind("leave", "SIGTERM: 1 leaves", -1),
        Kind("kill", "SIGKILL: 1 dies", -1, is_loss=True),
        Kind("idle", "resize: 1 idles", -1),
        Kind("return", "resize: it returns", 1),
        Kind("drain", "drain 0: rank 0 leaves", -1),
    )
}
STORY = "join2,leave,join,kill,idle,return,drain"


@dataclass(frozen=True)
class Training:
    """What all runs have in common.

    Attributes:
        num_steps: for which the learning rate is planned; the demo ends before.
        pace_s: the least time of a step, so that processes start while it trains.
        size: of the first world.
    """

    num_steps: int
    pace_s: float
    size: int = 2

    def options(self) -> tuple[str, ...]:
        """As the scripts of the processes take it."""
        return ("--steps", str(self.num_steps), "--pace-s", str(self.pace_s))


@dataclass(frozen=True)
class Event:
    """Something that happened to the job.

    Attributes:
        kind: what.
        asked: when it was asked for, or done; in seconds of the monotonic clock.
        layout: where it leads to.
    """

    kind: Kind
    asked: float
    layout: str


class Job:
    """A coordinator and the members that were started so far.

    Args:
        folder: for what they say and write.
        training: that members take part in.
        tell: is told each command.
        layouts: by number of processes, from the one that is wanted most.
    """

    def __init__(
        self,
        folder: Path,
        training: Training,
        tell: Callable[[str], None],
        layouts: Mapping[int, str] = LAYOUTS,
    ) -> None:
        self.folder, self.training, self.tell = folder, training, tell
        self.layouts = layouts
        self.members: list[Process] = []
        self.secret = str(folder / "secret")
        wanted = [word for layout in layouts.values() for word in ("--layout", layout)]
        files = ("--ledger", str(folder / "ledger"), "--secret-file", self.secret)
        self.tell(f"$ dynatrain coordinator {' '.join(wanted)}")
        command = ("-m", "dynatrain", "coordinator", *wanted, *files, "--json")
        self.coordinator = Process(folder / "coordinator.jsonl", *command)
        wait_until(lambda: bool(self.coordinator.hear()), "the coordinator")
        self.address = str(self.coordinator.said[0]["address"])

    def start(self, number: int) -> None:
        """Start members, by the command that anybody may give."""
        command = ("elastic.member", self.address, *self.training.options())
        for _ in range(number):
            output = self.folder / f"member-{len(self.members)}.jsonl"
            secret = ("--secret-file", self.secret)
            self.members.append(Process(output, "-m", *command, *secret))
        times = f"   # {number} times" if number > 1 else ""
        self.tell(f"$ python -m {' '.join(command)}{times}")

    def ask(self, *question: str) -> None:
        """Give the coordinator a command."""
        self.tell(f"$ dynatrain {' '.join(question)}")
        where = ("--coordinator", self.address, "--secret-file", self.secret)
        command = [sys.executable, "-m", "dynatrain", *question, *where, "--json"]
        options: dict[str, Any] = {"env": environment_of(), "timeout": DEADLINE_S}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)

    def signal(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to the member that has a rank in the present world."""
        self.tell(f"$ kill -{number.name.removeprefix('SIG')} (the process of rank {rank})")
        self.ranks()[rank].child.send_signal(number)

    def ranks(self) -> dict[int, Process]:
        """Who has done a step in the world of the last step, by rank."""
        epoch = self.now().get("epoch")
        latest = [(member, member.steps()[-1:]) for member in self.members]
        return {
            steps[0]["rank"]: member
            for member, steps in latest
            if steps and steps[0]["epoch"] == epoch
        }

    def now(self) -> dict[str, Any]:
        """The last step that was done."""
        last = [steps[-1] for member in self.members if (steps := member.steps())]
        return max(last, key=lambda each: (each["epoch"], each["step"]), default={})

    def await_steps(self, layout: str, number: int) -> None:
        """Wait until so many steps were done in a layout, one after the other."""

        def are_done() -> bool:
            if not any(member.is_running() for member in self.members):
                raise RuntimeError(self.ended_early(layout))
            now = self.now()
            if now.get("layout") != layout:
                return False
            most = max((member.steps() for member in self.members), key=len)
            return sum(each["epoch"] == now["epoch"] for each in most) >= number

        wait_until(are_done, f"{number} steps in {layout}")

    def ended_early(self, layout: str) -> str:
        """Why the job is over before its story is."""
        errors = "\n".join(member.errors() for member in self.members)
        return (
            f"the job ended after {self.now().get('step', -1) + 1} steps, before it trained in "
            f"{layout}; give it more --steps\n{errors}"
        )

    def do(self, kind: Kind) -> Event:
        """Let something happen."""
        size = {layout: number for number, layout in self.layouts.items()}[self.now()["layout"]]
        layout = self.layouts[size + kind.more]
        asked = time.monotonic()
        if kind.name.startswith("join"):
            self.start(kind.more)
        elif kind.name == "idle":
            self.ask("resize", "--layout", layout)
        elif kind.name == "return":
            self.ask("resize")
        elif kind.name == "drain":
            self.ask("drain", "0")
        else:
            self.signal(size - 1, signal.SIGKILL if kind.is_loss else signal.SIGTERM)
        return Event(kind, asked, layout)

    def kill(self) -> None:
        """End all that still runs, the coordinator first: it would have the others go on."""
        for process in (self.coordinator, *self.members):
            process.kill()


def run(
    folder: Path,
    training: Training,
    kinds: Sequence[Kind],
    apart: int,
    tell: Callable[[str], None],
) -> tuple[list[Event], list[dict[str, Any]]]:
    """Train on processes to which all `kinds` happen, then end them.

    Returns the events and all that was said.
    """
    job = Job(folder, training, tell)
    try:
        job.start(training.size)
        job.await_steps(LAYOUTS[training.size], apart)
        events = []
        for kind in kinds:
            events.append(job.do(kind))
            job.await_steps(events[-1].layout, apart)
    finally:
        job.kill()
    return events, [said for member in job.members for said in member.hear()]
