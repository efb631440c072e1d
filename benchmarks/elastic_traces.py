"""Traces of nodes that come and go: read, made at published rates, folded onto few processes."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path


@dataclass(frozen=True)
class Instant:
    """What happens at one moment.

    Attributes:
        seconds: since the trace's begin.
        added: nodes that are there from now on.
        removed: nodes that are gone.
    """

    seconds: float
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rates:
    """At which nodes go and come back.

    The defaults are counted from Bamboo's published trace of p3 instances (NSDI'23): 79 moments of
    preemption in 11.37 hours, at which 2.11 nodes go, and 24.0 of 32 nodes there on average.

    Attributes:
        num_nodes: that are wanted, and there at the begin.
        preemptions_per_hour: moments at which nodes go.
        nodes_each: that go at one of them, on average.
        hours_until_replaced: until another node is there, on average.
    """

    num_nodes: int = 32
    preemptions_per_hour: float = 6.95
    nodes_each: float = 2.11
    hours_until_replaced: float = 0.51


def made(rates: Rates, hours: float, seed: int = 0) -> list[Instant]:
    """A trace at these rates: whatever comes, comes at whole minutes and without a memory."""
    draw = random.Random(seed)
    present = [f"node{number}" for number in range(1, rates.num_nodes + 1)]
    count, now = rates.num_nodes, 0.0
    lines = [(0, "add", node) for node in present]
    returns: list[tuple[float, str]] = []
    while (now := now + draw.expovariate(rates.preemptions_per_hour)) < hours:
        present += [node for at, node in returns if at <= now]
        returns = [each for each in returns if each[0] > now]
        each = 1 + int(math.log(draw.random()) / math.log(1 - 1 / rates.nodes_each))
        for _ in range(min(each, len(present) - 1)):
            lines.append((minutes(now), "remove", present.pop(draw.randrange(len(present)))))
            count += 1
            at = max(now + 1 / 60, now + draw.expovariate(1 / rates.hours_until_replaced))
            returns.append((at, f"node{count}"))
            if at < hours:
                lines.append((minutes(at), "add", f"node{count}"))
    return instants(sorted(lines))


def minutes(hours: float) -> int:
    """As milliseconds, rounded down to a minute."""
    return 60_000 * int(hours * 60)


def instants(lines: Iterable[tuple[int, str, str]]) -> list[Instant]:
    """Lines of (milliseconds, add or remove, node), joined where they are of one moment."""
    return [
        Instant(
            at / 1000,
            tuple(node for _, kind, node in each if kind == "add"),
            tuple(node for _, kind, node in each if kind == "remove"),
        )
        for at, each in (
            (at, list(group)) for at, group in groupby(lines, key=lambda line: line[0])
        )
    ]


def read(path: Path) -> list[Instant]:
    """The trace of a file.

    Raises:
        ValueError: a line is not ``milliseconds,add|remove,node``, goes back in time, adds a node
            that is there or removes one that is not.
    """
    lines: list[tuple[int, str, str]] = []
    present: set[str] = set()
    for number, text in enumerate(path.read_text().splitlines(), 1):
        at, kind, node = [*text.split(","), "", ""][:3]
        fits = at.isdigit() and kind in ("add", "remove") and node and text.count(",") == 2
        if not fits or (lines and int(at) < lines[-1][0]):
            raise ValueError(
                f"{path}:{number}: expected milliseconds,add|remove,node, ascending, got {text!r}"
            )
        if (node in present) == (kind == "add"):
            where = "is there already" if kind == "add" else "is not there"
            raise ValueError(f"{path}:{number}: {kind} of {node}, which {where}")
        present ^= {node}
        lines.append((int(at), kind, node))
    if not lines:
        raise ValueError(f"{path}: expected lines of milliseconds,add|remove,node, got none")
    return instants(lines)


def sizes(trace: Sequence[Instant]) -> list[tuple[float, int]]:
    """How many nodes are there from each moment on."""
    found, number = [], 0
    for each in trace:
        number += len(each.added) - len(each.removed)
        found.append((each.seconds, number))
    return found


def peak(trace: Sequence[Instant]) -> int:
    """The most nodes that are there at once."""
    return max(number for _, number in sizes(trace))


def cut(trace: Sequence[Instant], hours: float) -> list[Instant]:
    """The first hours of a trace."""
    return [each for each in trace if each.seconds < 3600 * hours]


def folded(trace: Sequence[Instant], most: int, num_nodes: int) -> list[tuple[float, int]]:
    """How many of `most` processes are there from each moment on.

    Each stands for the same share of `num_nodes`, and is there for each whole share of nodes; one
    always is. Only moments at which the number changes.
    """
    share = num_nodes / most
    found: list[tuple[float, int]] = []
    for at, number in sizes(trace):
        processes = max(1, int(number / share))
        if not found or processes != found[-1][1]:
            found.append((at, processes))
    return found
