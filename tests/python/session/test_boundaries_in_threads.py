"""Laws 4, 6 and 7 at every boundary of a switch, with ranks as threads over a fake of the outside.

One rank is killed, comes too late, is interrupted, or out of memory before or after an exchange of
all ranks, or of what they publish beside one. The phases are the library's own; what is outside of
them (store, groups, lanes, signals) and the framework are fakes.
``tests/multiprocess/test_every_boundary.py`` has the same with real processes, sockets and modules.
"""

from __future__ import annotations

import itertools
import re
import time
from dataclasses import dataclass

import pytest

from boundaries import Boundaries, outcome_of, run_out
from checkout import ROOT, read
from dynatrain.switch import moved
from ranks_in_threads import SIGNALS, STUCK_S, Outside, run_ranks
from toy_sessions import (
    FOLLOWING,
    NUM_RANKS,
    SOURCE,
    TARGET,
    holds_its_part,
    start,
    wait_at_most,
)

#: Ranks that wait for a dead or late one wait so long.
DEADLINE_S = 0.3
TROUBLES = ("killed", "late", "interrupted", "out of memory")
VICTIMS = (0, 1, 3)


def documented_boundaries():
    """Boundaries of a switch, by whether it was prepared, as the design page says."""
    page = " ".join(read(ROOT / "docs/design/switch.md").split())
    said = re.search(
        r"a prepared switch makes (\d+) exchanges, (\d+) publication and (\d+) meetings, one that "
        r"is not prepared \d+ or (\d+) exchanges, (\d+) publications and (\d+) meetings",
        page,
    )
    assert said, "docs/design/switch.md does not say how many exchanges a switch makes"
    numbers = [int(number) for number in said.groups()]
    return {True: sum(numbers[:3]), False: sum(numbers[3:])}


BOUNDARIES = documented_boundaries()


@dataclass(frozen=True)
class Case:
    """The trouble of one rank, before or after the n-th exchange of a switch."""

    number: int
    side: str
    kind: str
    victim: int
    prepared: bool

    def __str__(self):
        way = "prepared" if self.prepared else "cold"
        return f"{self.kind} {self.side} {self.number} {way}, rank {self.victim}"


class EndedBeforeError(Exception):
    """The switch ended before the trouble came: a busy machine ran out of the deadline."""


def trouble_of(case, outside, deadline_s):
    return {
        "killed": lambda: outside.kill(case.victim),
        "late": lambda: time.sleep(1.5 * deadline_s),
        "interrupted": SIGNALS.interrupt,
        "out of memory": run_out,
    }[case.kind]


def switch(part, layout):
    return part.switch(layout, None, ())


def switch_in_trouble(rank, outside, case, deadline_s):
    """The layout of a rank behind the trouble, None where it is undecided, and what followed."""
    part = start(outside, rank)
    source = part.present.state
    if case.prepared:
        part.prepare(TARGET, None)
    outside.gathered(rank, None)  # nobody is dead before all have begun
    wait_at_most(part, deadline_s)
    watch = None
    if rank == case.victim:
        watch = Boundaries(part, case.number, case.side, trouble_of(case, outside, deadline_s))
    outcome_of(lambda: switch(part, TARGET))
    if watch is not None and watch.hits != 1:
        raise EndedBeforeError
    undecided = outcome_of(part.present.check_decided) is not None
    layout = str(part.present.layout)
    assert holds_its_part(part)
    assert (part.present.state is source) == (layout == SOURCE)
    following = None
    if case.kind != "killed" and not any(outside.gathered(rank, undecided)):
        following = go_on(part)
    return None if undecided else layout, following


def go_on(part):
    """The next switch, with membership unchanged: its epoch and fingerprint."""
    wait_at_most(part, STUCK_S)
    report = switch(part, FOLLOWING)
    assert str(part.present.layout) == FOLLOWING
    assert holds_its_part(part)
    assert report.fingerprint_after == part.ask("fingerprint")
    return report.epoch, report.fingerprint_after


@pytest.fixture
def outside(monkeypatch):
    """What ranks that are threads talk over."""
    monkeypatch.setattr(moved, "signals_held_off", SIGNALS.held_off)
    return Outside(NUM_RANKS)


def possible_layouts(case):
    """Where ranks may be behind the trouble: a rank that never voted holds all of them back.

    One that is late may find others later still, and Ctrl-C waits while the vote goes on.
    """
    vote = BOUNDARIES[case.prepared] - 1
    if case.number > vote or (case.number == vote and case.side == "after"):
        return {TARGET}
    if case.kind == "interrupted" and case.number >= vote - 1:  # signals wait from there on
        return {TARGET}
    if case.kind == "late":
        return {SOURCE, TARGET}
    return {SOURCE}


def run_in_trouble(outside, case, deadline_s):
    return run_ranks(outside, lambda rank: switch_in_trouble(rank, outside, case, deadline_s))


def check(outside, case):
    try:
        results = run_ranks(
            outside, lambda rank: switch_in_trouble(rank, outside, case, DEADLINE_S)
        )
    except EndedBeforeError:
        results = run_in_trouble(Outside(NUM_RANKS), case, 20 * DEADLINE_S)
    dead = {case.victim} if case.kind == "killed" else set()
    alive = [each for rank, each in enumerate(results) if rank not in dead]
    assert [each for each in results if each is None] == [None] * len(dead)
    layouts = {layout for layout, _ in alive}
    if case.kind == "out of memory":  # the rank itself may not know how its vote ended
        layouts.discard(None)
    assert len(layouts) == 1
    assert layouts <= possible_layouts(case)
    assert len({following for _, following in alive}) == 1


def every_case():
    for prepared, num_boundaries in BOUNDARIES.items():
        boundaries = itertools.product(range(1, num_boundaries + 1), ("before", "after"), TROUBLES)
        for (number, side, kind), victim in itertools.product(boundaries, VICTIMS):
            yield Case(number, side, kind, victim, prepared)


def is_short(case):
    """One victim at every boundary; each is the one at a third of them."""
    turn = case.number + TROUBLES.index(case.kind) + (case.side == "after")
    return VICTIMS[turn % len(VICTIMS)] == case.victim


CASES = [
    pytest.param(case, id=str(case), marks=() if is_short(case) else pytest.mark.long)
    for case in every_case()
]


# A boundary that the cases below do not know of would be one that nobody makes trouble at.
@pytest.mark.parametrize("prepared", [False, True])
def test_a_switch_has_the_boundaries_that_the_design_says(outside, prepared):
    def work(rank):
        part = start(outside, rank)
        if prepared:
            part.prepare(TARGET, None)
        watch = Boundaries(part)
        switch(part, TARGET)
        assert holds_its_part(part)
        return watch.count, str(part.present.layout)

    assert run_ranks(outside, work) == [(BOUNDARIES[prepared], TARGET)] * NUM_RANKS


# Ranks in two worlds would train two models, and one that waits for the dead would never end.
@pytest.mark.parametrize("case", CASES)
def test_law7_trouble_at_a_boundary_splits_no_world_of_threads(outside, case):
    check(outside, case)
