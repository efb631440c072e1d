"""Times what ranks of a job say to each other around a switch: meetings, and small exchanges.

Members are threads of --processes processes, each with a connection of its own to one TCPStore,
whose server is a thread of this process; no state is there and nothing is moved. Works:

meeting    one meeting over the store, as each call of a session begins with
messages   what members send to the store for a meeting, by one thread, a member after the other:
           what the store takes at least
connect    the control groups are made; once
gather     one exchange of small values over them, all of which every rank reads
agree      the same with an outcome of each rank and no answer, as phases of a switch end
publish    1 MiB that one rank holds, to all others
switch     what a prepared switch says: 2 meetings, and 3 exchanges with nothing to publish

Members of one process share an interpreter, which lets one of them run at a time, and all of them
share the processors; ranks of a job do not. Processor times tell them apart: of the store's thread,
which N ranks of a job wait for, too, and of all threads. They are also what can be compared on a
machine that others use. Once connected, every rank has three threads of Gloo for each of its
groups, of which one wakes each 10 ms: 1,024 ranks are 4,200 threads and 39,000 descriptors.

A benchmark never asserts; it prints a table, or JSON as docs/reference/json.md describes it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a host without a name says so N times

import torch
import torch.distributed as dist

import dynatrain
from crowd import Counting, Crowd, Server, Tally, client
from dynatrain import words
from dynatrain.generation.control import Control, holders, listing
from dynatrain.generation.members import Members
from dynatrain.generation.rendezvous import Rendezvous
from dynatrain.report import SCHEMA_VERSION, RankStats, of_all_ranks
from dynatrain.switch.calls import Call, Calls

SIZES = (16, 64, 256, 1024)
DEADLINE = timedelta(seconds=300)
PUBLISHED_BYTES = 1 << 20
Work = Callable[["Member"], object]


@dataclass
class Member:
    """One rank: where it meets the others, and its control group where it has one."""

    members: Members
    meeting: Rendezvous
    control: Control | None = None
    number: int = 0

    @staticmethod
    def of(port: int, num_ranks: int, rank: int) -> Member:
        """The member of a rank, connected to the store at ``port``."""
        members = Members.of_ranks("timed", rank, num_ranks, client(port))
        return Member(members, Rendezvous(members.store, rank, num_ranks, DEADLINE))

    def connect(self) -> None:
        """Joins the control group. Collective."""
        self.control = Control(self.members, DEADLINE, "start")

    def release(self) -> None:
        """Lets go of the control group."""
        connected(self).release()

    def call(self) -> Call:
        """A call that no earlier one is like."""
        self.number += 1
        return Call("switch", "dp=2", self.number, True, True)

    def meet(self) -> None:
        """Brings the bytes of a call."""
        self.meeting.meet(words.encode(self.call()))

    def count_a_meeting(self) -> Tally:
        """What it asks of the store in a meeting that is not the first one."""
        members, tally = self.members, Tally()
        counted = Rendezvous(members.store, members.rank, members.num_ranks, DEADLINE, "counted")
        counted.meet(words.encode(self.call()))
        counting: Any = Counting(counted._store, tally)
        counted._store = counting
        counted.meet(words.encode(self.call()))
        return tally

    def meet_as_a_session(self) -> None:
        """Brings a call and looks at those of the others."""
        Calls(self.meeting).meet(self.call())


def connected(member: Member) -> Control:
    """The member's control group."""
    assert member.control is not None
    return member.control


def gather(member: Member) -> None:
    """Every rank brings a small value of its own."""
    connected(member).gather({"rank": str(member.members.rank)}, "a benchmark")


def agree(member: Member) -> None:
    """Every rank says that all went well."""
    connected(member).agree("a benchmark", None, None)


def publish(member: Member) -> None:
    """Rank 0 has what nobody else has."""
    parts = {"values": b"x" * PUBLISHED_BYTES} if member.members.rank == 0 else {}
    connected(member).publish(parts, PUBLISHED, "a benchmark")


def switch(member: Member) -> None:
    """What all ranks of a prepared switch exchange, with values that all hold alike."""
    control, parts = connected(member), {"values": b"x" * 1024}
    member.meet_as_a_session()
    held_by = control.agree("values", None, listing(parts), holders)
    control.publish(parts, held_by, "values")
    agree(member)
    member.meet_as_a_session()
    control.agree("the report", None, STATS, of_all_ranks)


PUBLISHED = holders([listing({"values": b"x" * PUBLISHED_BYTES})])
STATS = RankStats(*[0.0] * 5, *[0] * 5, traffic=b"", timeline=[])
EXCHANGES: dict[str, Work] = {
    "gather": gather,
    "agree": agree,
    "publish": publish,
    "switch": switch,
}


@dataclass
class Samples:
    """Seconds of each run, slowest member, and of processors; requests of one run."""

    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    server_seconds: list[float] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


@dataclass
class Row:
    """One work and number of ranks; the schema of the JSON output."""

    schema_version: int
    work: str
    num_ranks: int
    num_processes: int
    runs: int
    seconds_min: float
    seconds_median: float
    seconds_p95: float
    seconds_first: float
    processor_seconds_median: float
    server_seconds_median: float
    store_requests: int
    store_requests_per_rank: float
    store_bytes: int


def measure(server: Server, work: Callable[[], tuple[float, float]], runs: int) -> Samples:
    """Does ``work``, which returns its seconds and those of processors, ``runs`` times."""
    samples = Samples()
    for _ in range(runs):
        before = server.processor_seconds()
        seconds, processor_seconds = work()
        of_server = server.processor_seconds() - before
        samples.seconds.append(seconds)
        samples.processor_seconds.append(processor_seconds + of_server)
        samples.server_seconds.append(of_server)
    return samples


def together(crowd: Crowd[Member], work: Work) -> tuple[float, float]:
    """Seconds, and those of processors, in which all members do ``work``."""
    run = crowd.together(work)
    return run.seconds, run.processor_seconds


def counted_meeting(crowd: Crowd[Member]) -> Tally:
    """What all members ask of the store in a meeting that is not their first one; not timed."""
    tallies = crowd.together(Member.count_a_meeting).returned
    return Tally(sum(each.requests for each in tallies), sum(each.size_bytes for each in tallies))


def messages(clients: Sequence[dist.Store], name: str) -> tuple[float, float]:
    """Sends for each member in turn what it sends for a meeting; nobody has to wait."""
    brought, begin, processor = b"x" * 200, time.perf_counter(), time.thread_time()
    for each in clients:
        each.append(f"messages/{name}/came", brought)
        each.add(f"messages/{name}/count", 1)
    clients[0].compare_set(f"messages/{name}/decision", "", "go")
    for each in clients:
        each.wait([f"messages/{name}/decision"], DEADLINE)
        each.compare_set(f"messages/{name}/decision", "?", "?")
    return time.perf_counter() - begin, time.thread_time() - processor


def timed_messages(server: Server, num_ranks: int, runs: int) -> Samples:
    """The messages of a meeting, by this thread alone."""
    with ThreadPoolExecutor(128) as many:  # each may wait for a name server, which torch asks
        clients = list(many.map(client, [server.port] * num_ranks))
    names = map(str, range(runs))
    return measure(server, lambda: messages(clients, next(names)), runs)


def row_of(work: str, crowd: Crowd[Member], samples: Samples) -> Row:
    """Summarises the runs of one work; the first is in no other number where there are more."""
    first = 0 if len(samples.seconds) == 1 else 1
    rest = samples.seconds[first:]
    return Row(
        SCHEMA_VERSION,
        work,
        crowd.num_ranks,
        crowd.num_processes,
        runs=len(samples.seconds),
        seconds_min=min(rest),
        seconds_median=statistics.median(rest),
        seconds_p95=sorted(rest)[(len(rest) * 95 - 1) // 100],
        seconds_first=samples.seconds[0],
        processor_seconds_median=statistics.median(samples.processor_seconds[first:]),
        server_seconds_median=statistics.median(samples.server_seconds[first:]),
        store_requests=samples.tally.requests,
        store_requests_per_rank=samples.tally.requests / crowd.num_ranks,
        store_bytes=samples.tally.size_bytes,
    )


def rows_for(num_ranks: int, options: argparse.Namespace) -> list[Row]:
    """All works that ``num_ranks`` members do."""
    server = Server()
    crowd = Crowd(partial(Member.of, server.port, num_ranks), num_ranks, options.processes)
    timed = {
        "meeting": measure(server, partial(together, crowd, Member.meet), options.runs),
        "messages": timed_messages(server, num_ranks, options.runs),
        "connect": measure(server, partial(together, crowd, Member.connect), 1),
    }
    for name, work in EXCHANGES.items():
        timed[name] = measure(server, partial(together, crowd, work), options.runs)
    tally = counted_meeting(crowd)
    timed["meeting"].tally = tally
    timed["switch"].tally = Tally(2 * tally.requests, 2 * tally.size_bytes)
    crowd.together(Member.release)
    crowd.end()
    return [row_of(name, crowd, samples) for name, samples in timed.items()]


def show(rows: Sequence[Row]) -> None:
    """Prints the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="milliseconds, from the first rank's begin to the last rank's end")
    columns = ("min", "median", "p95", "first", "processor", "server", "requests a rank")
    for column in ("work", "ranks", *columns):
        table.add_column(column)
    for row in rows:
        seconds = (row.seconds_min, row.seconds_median, row.seconds_p95, row.seconds_first)
        processors = (row.processor_seconds_median, row.server_seconds_median)
        numbers = [f"{1e3 * each:.1f}" for each in (*seconds, *processors)]
        requests = f"{row.store_requests_per_rank:.1f}"
        table.add_row(row.work, str(row.num_ranks), *numbers, requests)
    Console().print(table)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--ranks", type=int, nargs="*", default=SIZES, help="numbers of ranks")
    parser.add_argument("--runs", type=int, default=21, help="runs of each work")
    parser.add_argument(
        "--processes",
        type=int,
        default=4,
        help="processes that share N ranks; each takes (sqrt(N) + 6) descriptors for a rank of it",
    )
    return parser.parse_args()


def main() -> None:
    """Runs the benchmark and prints its rows."""
    options = parse()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
    sys.stderr.write(
        f"# {platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} "
        f"processors, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, "
        f"dynatrain {dynatrain.__version__}, {limit[1]} descriptors, {options.runs} runs\n"
    )
    rows = [row for num_ranks in options.ranks for row in rows_for(num_ranks, options)]
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    else:
        show(rows)


if __name__ == "__main__":
    main()
