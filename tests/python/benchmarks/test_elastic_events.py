"""What the elastic benchmark reads out of what members have said."""

from __future__ import annotations

import importlib
import sys

import pytest

from checkout import ROOT

FOLDERS = [str(ROOT / "examples"), str(ROOT / "benchmarks")]
sys.path[:0] = FOLDERS
try:
    events, records, story = map(
        importlib.import_module, ("elastic_events", "elastic.records", "elastic.story")
    )
finally:
    del sys.path[: len(FOLDERS)]


def step(number, epoch, begin, busy):
    """A step of two ranks, of which the first is the faster one; a pause makes it a second long."""
    size = "dp_replicate=2"
    return [
        {"kind": "step", "step": number, "epoch": epoch, "layout": size, "rank": rank, "loss": 1.0}
        | {"begin": begin, "end": begin + 1, "busy": busy * (1 + rank) / 2}
        for rank in (0, 1)
    ]


def report(epoch, **more):
    """What rank 0 tells of the switch into a world."""
    spans = [("plan", 0, 0.25), ("build", 0, 0.5), ("build", 1, 0.5), ("wire", 1, 3.0)]
    timeline = [
        {"phase": phase, "rank": rank, "begin_seconds": 1.0, "end_seconds": 1.0 + seconds}
        for phase, rank, seconds in spans
    ]
    times = {"prepare_seconds": 1.5, "stop_seconds": 2.5}
    return {"kind": "switch", "epoch": epoch, "timeline": timeline, **times, **more}


def preparing(at):
    return {"kind": "event", "what": "preparing", "at": at}


#: Asked at 3, prepared from 5 on, the last step before the switch ends at 7, the next begins at 10.
SAID = [
    *[line for number in range(3) for line in step(number, 1, number, 0.2)],
    *step(3, 1, 3, 0.8),  # a process starts beside it: neither before nor while it is prepared
    *step(4, 1, 4, 0.2),
    *step(5, 1, 5, 0.4),
    *step(6, 1, 6, 0.4),
    *step(7, 2, 10, 0.2),
    preparing(0.5),
    preparing(5.0),
    preparing(5.1),
    report(1),
    report(2),
]


def sample(kind="join", said=SAID):
    steps = records.joined(said)
    happened = records.happened(
        [story.Event(story.KINDS[kind], 3.0, "dp_replicate=2")], records.stops(steps)
    )
    return events.elastic_sample(happened[0], steps, said)


# A number that is taken from another event, or from another rank, would still look like one.
def test_times_of_an_event_are_its_own():
    found = sample()

    assert found.stop == 3
    assert found.goes_on == 7
    assert found.starts == 2
    assert found.prepares == 2
    assert found.prepare == 1.5
    assert found.switch == 2.5
    assert found.lost == 0


# What lies within the stop is what a preparation ahead would save: of one rank, and no transfer.
def test_preparation_within_the_stop_is_read_from_the_timeline():
    assert sample().inside == 0.75


# In a recovery nobody trains, wherever the spans lie.
def test_all_preparation_of_a_recovery_is_within_the_stop():
    assert sample("kill").inside == 1.5


# Of the slowest rank and without the pause; a pause would hide that a step takes twice as long.
def test_slowdown_compares_steps_beside_the_preparation_with_those_before():
    assert sample().slowdown == pytest.approx(2)


# Work between two steps slows training down as work within them does.
def test_slowdown_counts_what_lies_between_steps():
    said = [line for line in SAID if line.get("step") not in (5, 6)]
    said += [*step(5, 1, 5, 0.2), *step(6, 1, 6.6, 0.2)]
    said = [line | {"at": 4.9} if line["kind"] == "event" else line for line in said]
    said = [line | {"begin": 11, "end": 12} if line.get("step") == 7 else line for line in said]

    assert sample(said=said).slowdown == pytest.approx((0.2 + 0.6) / 0.2)


# Short of a step in that time there is nothing to compare.
def test_no_step_beside_the_preparation_is_no_slowdown():
    said = [line | {"at": 6.9} if line["kind"] == "event" else line for line in SAID]

    assert sample(said=said).slowdown == 1
