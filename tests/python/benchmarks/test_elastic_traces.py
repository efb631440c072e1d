"""Traces of nodes: what is read, what is made, and what becomes of them with fewer processes."""

from __future__ import annotations

import importlib
import sys
from itertools import pairwise

import pytest

from checkout import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    traces = importlib.import_module("elastic_traces")
finally:
    sys.path.pop(0)
Instant = traces.Instant


# One moment is one event: nodes that go together are met together.
def test_lines_of_one_moment_are_read_as_one(tmp_path):
    file = tmp_path / "trace.csv"
    file.write_text("0,add,a\n0,add,b\n60000,remove,a\n90000,add,c\n")

    assert traces.read(file) == [
        Instant(0, ("a", "b")),
        Instant(60, removed=("a",)),
        Instant(90, ("c",)),
    ]


# A trace that does not add up would make a replay of nothing; the line is what helps to mend it.
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got none"),
        ("0,add\n", "1: expected milliseconds"),
        ("0,add,a,b\n", "1: expected milliseconds"),
        ("0,join,a\n", "1: expected milliseconds"),
        ("5,add,a\n4,add,b\n", "2: expected milliseconds,add|remove,node, ascending"),
        ("0,add,a\n1,add,a\n", "2: add of a, which is there already"),
        ("0,add,a\n1,remove,b\n", "2: remove of b, which is not there"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, text, words):
    file = tmp_path / "trace.csv"
    file.write_text(text)

    with pytest.raises(ValueError, match=r"trace\.csv") as raised:
        traces.read(file)
    assert words in str(raised.value)


# Half a share of nodes is no process; and somebody always trains.
def test_folding_counts_whole_shares():
    nodes = tuple("abcdefgh")
    trace = [Instant(0, nodes), Instant(5, removed=nodes[:1]), Instant(7, removed=nodes[1:2])]
    trace += [Instant(9, removed=nodes[2:])]

    assert traces.folded(trace, 4, 8) == [(0, 4), (5, 3), (9, 1)]


# Made traces stand for the published one as long as they have its rates.
def test_a_made_trace_has_the_rates(tmp_path):
    rates = traces.Rates()
    made = traces.made(rates, hours=2000, seed=1)

    removals = [each for each in made if each.removed]
    gone = sum(len(each.removed) for each in removals)
    there = traces.sizes(made)
    hours = [(b - a) / 3600 * n for (a, n), (b, _) in pairwise(there)]
    assert len(removals) / 2000 == pytest.approx(rates.preemptions_per_hour, rel=0.1)
    assert gone / len(removals) == pytest.approx(rates.nodes_each, rel=0.15)
    assert sum(hours) / 2000 == pytest.approx(24.0, rel=0.1)
    assert traces.peak(made) == rates.num_nodes


# Numbers on a page can be made again; and what is made can be read.
def test_a_made_trace_is_the_same_again_and_can_be_read(tmp_path):
    made = traces.made(traces.Rates(), hours=3, seed=4)
    lines = [
        f"{1000 * each.seconds:.0f},{kind},{node}\n"
        for each in made
        for kind, nodes in (("add", each.added), ("remove", each.removed))
        for node in nodes
    ]
    file = tmp_path / "trace.csv"
    file.write_text("".join(lines))

    assert traces.made(traces.Rates(), hours=3, seed=4) == made
    assert traces.made(traces.Rates(), hours=3, seed=5) != made
    assert traces.read(file) == made
