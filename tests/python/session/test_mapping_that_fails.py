"""Sources that a rank cannot map: what its peers wait for ends before it tells them."""

from __future__ import annotations

import logging
from datetime import timedelta
from types import SimpleNamespace

import pytest

from dynatrain import TransportError, _native
from dynatrain.generation.control import attempt
from dynatrain.generation.engine import Engine
from dynatrain.generation.lanes import DEVICE, HOST
from dynatrain.switch.blueprint import LaneMoves
from dynatrain.switch.ways import Way, ways_of

BLUEPRINT = SimpleNamespace(source_map=None)
MAPS = (_native.ShardMap.merge([]), _native.ShardMap.merge([]))
#: Of plans that have no moves between ranks, and some.
NONE = SimpleNamespace(sends=list, receives=list)
SOME = SimpleNamespace(sends=lambda: [(1, 1, 8, 0)], receives=list)


def moves_of(lane):
    return LaneMoves(lane, ["weight"], SOME, _native.ScheduleOptions(), 5, MAPS)


def lane_over(executor):
    return SimpleNamespace(reads_in_place=True, executor=executor)


class Recording(Engine):
    """An engine of one lane, whose peers wait for the other exchange."""

    def __init__(self, executor):
        self.events = []
        self.generation = SimpleNamespace(
            lanes={DEVICE: lane_over(executor)},
            options=SimpleNamespace(timeout=timedelta(seconds=1)),
            disconnect=lambda reason: self.events.append("the lanes ended"),
        )

    def joined(self, phase, work, combine):
        _, error = attempt(work)
        self.events.append("the others were told")
        raise error


def refuse(*_):
    raise TransportError("the store is gone")


# Its peers wait in their own mapping for what it was to publish, and not in the exchange.
def test_the_lanes_end_before_the_others_are_told():
    engine = Recording(SimpleNamespace(map_sources=refuse))
    with pytest.raises(TransportError, match="the store is gone"):
        ways_of(engine, BLUEPRINT, None, moves_of(DEVICE))

    assert engine.events == ["the lanes ended", "the others were told"]


class Agreeing(Engine):
    """One rank of an engine; the others say what they are given to say."""

    def __init__(self, divided, rank=0, others=()):
        self.others = others
        executor = SimpleNamespace(map_sources=lambda *_: divided)
        self.generation = SimpleNamespace(
            lanes={HOST: lane_over(executor)},
            options=SimpleNamespace(timeout=timedelta(seconds=1)),
            members=SimpleNamespace(rank=rank),
        )

    def joined(self, phase, work, combine):
        return combine([work(), *self.others])


@pytest.fixture
def seven_stages(monkeypatch):
    monkeypatch.setattr(_native, "num_stages_wanted", lambda plan, options: 7)


# At INFO the guide promises one line for each switch, on rank 0; each rank told of all ranks.
@pytest.mark.parametrize("rank", [0, 3])
def test_host_memory_that_travels_by_messages_is_no_news_of_a_switch(caplog, seven_stages, rank):
    caplog.set_level(logging.DEBUG, logger="dynatrain.session")
    engine = Agreeing((NONE, SOME, "it is the process's own memory"), rank)
    ways_of(engine, BLUEPRINT, None, moves_of(HOST))

    assert [record.levelno for record in caplog.records] == [logging.DEBUG] * (rank == 0)


# A run that some ranks make and others do not would wait for them.
def test_all_ranks_take_the_ways_that_any_of_them_needs(seven_stages):
    moves = moves_of(HOST)
    reads, sends = ((3, 0), ""), ((0, 9), "")

    def ways(divided, *others):
        return ways_of(Agreeing((*divided, ""), others=others), BLUEPRINT, None, moves)

    assert ways((SOME, NONE), reads) == [Way(moves, one_sided=True)]
    assert ways((NONE, SOME), sends) == [Way(moves)]
    assert [way.one_sided for way in ways((NONE, SOME), reads)] == [True, False]
    in_place, by_messages = ways((SOME, NONE), sends)
    assert (in_place.one_sided, in_place.moves.num_stages, in_place.moves.plan) == (True, 7, SOME)
    assert (by_messages.one_sided, by_messages.moves.num_stages) == (False, 9)
    assert by_messages.moves.plan is NONE


# What stays on its rank has one way, too: that of all else, in place where there is nothing else.
def test_moves_within_ranks_alone_are_one_run():
    moves = moves_of(HOST)
    assert ways_of(Agreeing((NONE, NONE, "")), BLUEPRINT, None, moves) == [
        Way(moves, one_sided=True)
    ]
