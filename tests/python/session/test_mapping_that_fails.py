"""Sources that a rank cannot map: what its peers wait for ends before it tells them."""

from __future__ import annotations

import logging
from datetime import timedelta
from types import SimpleNamespace

import pytest

from dynatrain import TransportError
from dynatrain.generation.control import attempt
from dynatrain.generation.engine import Engine
from dynatrain.generation.lanes import DEVICE, HOST
from dynatrain.switch.standing import Route, _with_sources


class Recording(Engine):
    """An engine of one lane, whose peers wait for the other exchange."""

    def __init__(self, executor):
        self.events = []
        transport = SimpleNamespace(is_one_sided=True)
        self.generation = SimpleNamespace(
            lanes={DEVICE: SimpleNamespace(transport=transport, executor=executor)},
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
    blueprint = SimpleNamespace(source_map=None)
    standing = SimpleNamespace(blueprint=blueprint, source=SimpleNamespace(table=None))
    with pytest.raises(TransportError, match="the store is gone"):
        _with_sources(engine, standing, Route(SimpleNamespace(lane=DEVICE, plan=None), None))

    assert engine.events == ["the lanes ended", "the others were told"]


class Agreeing(Engine):
    """One rank of an engine whose ranks all say the same."""

    def __init__(self, rank):
        transport = SimpleNamespace(is_one_sided=True)
        executor = SimpleNamespace(map_sources=lambda *_: "it is the process's own memory")
        self.generation = SimpleNamespace(
            lanes={HOST: SimpleNamespace(transport=transport, executor=executor)},
            options=SimpleNamespace(timeout=timedelta(seconds=1)),
            members=SimpleNamespace(rank=rank),
        )

    def joined(self, phase, work, combine):
        return combine([work()] * 4)


# At INFO the guide promises one line for each switch, on rank 0; each rank told of all ranks.
@pytest.mark.parametrize("rank", [0, 3])
def test_host_memory_that_travels_by_messages_is_no_news_of_a_switch(caplog, rank):
    caplog.set_level(logging.DEBUG, logger="dynatrain.session")
    standing = SimpleNamespace(
        blueprint=SimpleNamespace(source_map=None), source=SimpleNamespace(table=None)
    )

    _with_sources(Agreeing(rank), standing, Route(SimpleNamespace(lane=HOST, plan=None), None))

    assert [record.levelno for record in caplog.records] == [logging.DEBUG] * (rank == 0)
