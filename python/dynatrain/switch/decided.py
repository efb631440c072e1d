"""The vote on a switch, and what it decides: one world for all ranks, or none is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dynatrain._errors import Error, ends_job
from dynatrain.adapters.port import Adapter
from dynatrain.given import described
from dynatrain.switch.present import Present
from dynatrain.switch.standing import Standing

#: Votes for a target, in words, after an epoch; raises where it is not to be installed.
Vote = Callable[[str, int], None]


def decide(adapter: Adapter[Any], vote: Vote, present: Present, standing: Standing) -> None:
    """Votes, then installs the target. Collective; to be called with signals held off.

    An exception of a handler between a rank's vote and its new world would leave it in the old one,
    alone.

    Raises:
        an error of the vote: no rank installs. Where this rank could not learn how the vote ended,
        nobody knows that, and it is undecided from then on: see :class:`Present`.
    """
    with _undecided_where_nobody_knows(present):
        vote(str(standing.blueprint.called.layout), present.epoch)
    _install(adapter, present, standing)


@contextmanager
def _undecided_where_nobody_knows(present: Present) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Error) or ends_job(error):
            present.undecided = described(error)
        raise


def _install(adapter: Adapter[Any], present: Present, standing: Standing) -> None:
    called = standing.blueprint.called
    layout = called.layout
    former, place = present.state, present.world
    present.epoch += 1
    present.install(called.seats, called.world, standing.target.state)
    adapter.retire(former, standing.target.inventory, str(layout))
    if place is not None:
        place.retire(f"the switch to {layout} replaced")
