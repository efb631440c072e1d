"""Law 7 at every line from the vote to the new world: memory that runs out there splits no world.

Ranks are threads, as in ``test_boundaries_in_threads.py``. One of them runs out of memory at a line
of the code that votes and installs; the line is found by tracing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import dynatrain
from boundaries import outcome_of
from dynatrain.switch import decided, moved, present
from ranks_in_threads import SIGNALS, Outside, run_ranks
from toy_sessions import NUM_RANKS, TARGET, holds_its_part, start, wait_at_most

VICTIM = 1
#: Ranks wait so long for the one that says nothing more.
DEADLINE_S = 0.3


def lines_of(function):
    """Lines of a function that do something, but for its docstring's."""
    code = function.__code__
    return sorted({line for *_, line in code.co_lines() if line and line > code.co_firstlineno})


PLACES = [
    (function, line)
    for function in (decided.decide, present.Present.install)
    for line in lines_of(function)
]


class RunsOut:
    """Has memory run out, once, as a line of a function is about to be done by this thread."""

    def __init__(self, function, line):
        self._code, self._line, self.hits = function.__code__, line, 0

    def __enter__(self):
        sys.settrace(self._entered)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _entered(self, frame, _event, _arg):
        return self._at if frame.f_code is self._code else None

    def _at(self, frame, event, _arg):
        if event == "line" and frame.f_lineno == self._line and not self.hits:
            self.hits += 1
            raise MemoryError("no memory here")
        return self._at


@pytest.fixture
def outside(monkeypatch):
    monkeypatch.setattr(moved, "signals_held_off", SIGNALS.held_off)
    return Outside(NUM_RANKS)


def switch_with_a_victim(rank, outside, place):
    """What the call raised, the layout, and whether the rank may train there."""
    part = start(outside, rank)
    part.prepare(TARGET, None)
    layout = part.present.layout
    outside.gathered(rank, None)
    wait_at_most(part, DEADLINE_S)
    hits = 1
    if rank == VICTIM:
        with RunsOut(*place) as trouble:
            error = outcome_of(lambda: part.switch(TARGET, None, ()))
        hits = trouble.hits
    else:
        error = outcome_of(lambda: part.switch(TARGET, None, ()))
    undecided = outcome_of(part.present.check_decided)
    if undecided is None:
        assert holds_its_part(part)
        assert (part.present.layout == layout) == (part.present.epoch == 0)
    if undecided is not None:
        again = outcome_of(lambda: part.switch(TARGET, None, ()))
        assert isinstance(again, dynatrain.InternalError)
        assert "training may go on" not in str(error)
        assert "nothing was switched" not in str(error)
    return hits, error, undecided is not None, str(part.present.layout)


@pytest.mark.parametrize(
    "place", PLACES, ids=lambda place: f"{Path(place[0].__code__.co_filename).stem}:{place[1]}"
)
def test_no_rank_trains_in_a_world_of_its_own(outside, place):
    results = run_ranks(outside, lambda rank: switch_with_a_victim(rank, outside, place))

    told = [results[rank] for rank in range(NUM_RANKS)]
    if not told[VICTIM][0]:
        pytest.skip("this line is for those whose vote was refused")
    trained = {layout for _, _, undecided, layout in told if not undecided}
    assert len(trained) == 1, told
    assert [undecided for _, _, undecided, _ in told].count(True) <= 1
