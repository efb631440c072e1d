"""Times what ranks of a job say to each other around a switch: meetings, and small exchanges.

Members are threads of this process, each with a connection of its own to one TCPStore, whose server
is a thread of this process, too; no state is there and nothing is moved. Works:

meeting    one meeting over the store, as each call of a session begins with
messages   what members send to the store for a meeting, by one thread, a member after the other:
           what the store takes at least
gather     one exchange of small values over the control group
agree      the same with an outcome of each rank, as phases of a switch end
publish    1 MiB that one rank holds, to all others
switch     what a prepared switch says: 2 meetings, and 4 exchanges with nothing to publish

Control groups take about 2 * N * sqrt(N) descriptors of this process: exchanges are timed up to
--most-exchanging ranks.

The members share one interpreter, which lets one of them run at a time; ranks of a job do not.
Processor times tell them apart: of the store's thread, which N ranks of a job wait for, too, and of
all threads. They are also what can be compared on a machine that others use.

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
from typing import Any

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a host without a name says so N times

import torch
import torch.distributed as dist

import dynatrain
from crowd import Counting, Crowd, Server, Tally
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
    def of(store: dist.Store, rank: int, num_ranks: int, purpose: str) -> Member:
        """A member whose meetings are its own under ``purpose``."""
        meeting = Rendezvous(store, rank, num_ranks, DEADLINE, purpose)
        return Member(Members(purpose, rank, num_ranks, store), meeting)

    def connect(self) -> None:
        """Joins the control group. Collective."""
        self.control = Control(self.members, DEADLINE, "start")

    def call(self) -> Call:
        """A call that no earlier one is like."""
        self.number += 1
        return Call("switch", "dp=2", self.number, True, True)

    def meet(self) -> None:
        """Brings the bytes of a call."""
        self.meeting.meet(words.encode(self.call()))

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


def measure(server: Server, crowd: Crowd[Member], work: Work, runs: int) -> Samples:
    """Runs ``work`` on all members ``runs`` times."""
    samples = Samples()
    for _ in range(runs):
        before, server_before = time.process_time(), server.processor_seconds()
        samples.seconds.append(crowd.together(work))
        samples.processor_seconds.append(time.process_time() - before)
        samples.server_seconds.append(server.processor_seconds() - server_before)
    return samples


def counted_meeting(clients: Sequence[dist.Store], num_ranks: int) -> Tally:
    """What all members ask of the store in a meeting that is not their first one; not timed."""
    crowd = [
        Member.of(client, rank, num_ranks, "counted")
        for rank, client in enumerate(clients[:num_ranks])
    ]
    threads = Crowd(crowd)
    threads.together(Member.meet)
    tallies = [Tally() for _ in crowd]
    for member, tally in zip(crowd, tallies, strict=True):
        counting: Any = Counting(member.meeting._store, tally)
        member.meeting._store = counting
    threads.together(Member.meet)
    threads.end()
    return Tally(sum(each.requests for each in tallies), sum(each.size_bytes for each in tallies))


def messages(clients: Sequence[dist.Store]) -> Work:
    """Sends for each member in turn what it sends for a meeting; nobody has to wait."""

    def send(member: Member) -> None:
        name, brought = str(member.number), b"x" * 200
        member.number += 1
        for client in clients:
            client.append(f"messages/{name}/came", brought)
            client.add(f"messages/{name}/count", 1)
        clients[0].compare_set(f"messages/{name}/decision", "", "go")
        for client in clients:
            client.wait([f"messages/{name}/decision"], DEADLINE)
            client.compare_set(f"messages/{name}/decision", "?", "?")

    return send


def row_of(work: str, num_ranks: int, samples: Samples) -> Row:
    """Summarises the runs of one work; the first is in no other number where there are more."""
    first = 0 if len(samples.seconds) == 1 else 1
    rest = samples.seconds[first:]
    return Row(
        SCHEMA_VERSION,
        work,
        num_ranks,
        runs=len(samples.seconds),
        seconds_min=min(rest),
        seconds_median=statistics.median(rest),
        seconds_p95=sorted(rest)[(len(rest) * 95 - 1) // 100],
        seconds_first=samples.seconds[0],
        processor_seconds_median=statistics.median(samples.processor_seconds[first:]),
        server_seconds_median=statistics.median(samples.server_seconds[first:]),
        store_requests=samples.tally.requests,
        store_requests_per_rank=samples.tally.requests / num_ranks,
        store_bytes=samples.tally.size_bytes,
    )


def rows_for(num_ranks: int, options: argparse.Namespace) -> list[Row]:
    """All works that ``num_ranks`` members can do."""
    server = Server()
    with ThreadPoolExecutor(128) as many:  # each may wait for a name server, which torch asks
        clients = list(many.map(lambda _: server.client(), range(num_ranks)))
    tally = counted_meeting(clients, num_ranks)
    crowd = [Member.of(client, rank, num_ranks, "timed") for rank, client in enumerate(clients)]
    threads = Crowd(crowd)
    meetings = measure(server, threads, Member.meet, options.runs)
    meetings.tally = tally
    rows = [row_of("meeting", num_ranks, meetings)]
    alone = Crowd([Member.of(server.client(), 0, 1, "alone")])
    rows.append(
        row_of("messages", num_ranks, measure(server, alone, messages(clients), options.runs))
    )
    alone.end()
    if num_ranks <= options.most_exchanging:
        threads.together(Member.connect)
        for name, work in EXCHANGES.items():
            samples = measure(server, threads, work, options.runs)
            if name == "switch":
                samples.tally = Tally(2 * tally.requests, 2 * tally.size_bytes)
            rows.append(row_of(name, num_ranks, samples))
    threads.end()
    for member in crowd:
        if member.control is not None:
            member.control.release()
    return rows


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
        "--most-exchanging", type=int, default=64, help="ranks beyond which only meetings are timed"
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
