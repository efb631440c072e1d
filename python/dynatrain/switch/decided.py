"""The vote on a switch, and what it decides: one world for all ranks, or none is left."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from dynatrain._errors import Error, LostStateError, ends_job
from dynatrain.adapters.port import Adapter
from dynatrain.given import described
from dynatrain.switch.present import Present
from dynatrain.switch.remains import Remains, Rescue
from dynatrain.switch.standing import Standing

_log = logging.getLogger("dynatrain.session")
#: Why a rank is undecided: constants, as there may be no memory left to say it in.
_VOTES = "it has voted, and what follows has failed before it knew the outcome"
_INSTALLS = "the switch was decided, and this rank could not install its part"
_STREAMS = "the switch was decided, and failed before the new state stood; the former one is gone"


@dataclass(frozen=True)
class Vote:
    """How a rank votes on a switch.

    Attributes:
        cast: votes for a target, in words, after an epoch; raises where it is not to be installed.
        may_count: whether others may have heard the vote; asked where ``cast`` has raised what is
            none of the family's.
        rescue: keeps what is left where the state is lost behind a vote, and comes from such parts
            or from elsewhere; None where it does not come at all.
    """

    cast: Callable[[str, int], None]
    may_count: Callable[[], bool] = lambda: True
    rescue: Rescue | None = None


class Stream(Protocol):
    """The bytes of a switch whose source is freed while its target arrives."""

    def stream(self) -> None:
        """Moves them. Raises LostStateError."""

    def remains(self) -> Remains:
        """What has landed where it has failed."""


def decide(
    adapter: Adapter[Any],
    vote: Vote,
    present: Present,
    standing: Standing,
    stream: Stream | None = None,
) -> None:
    """Votes, then installs the target. Collective; to be called with signals held off.

    Where the source is freed while the target arrives, ``stream`` does that between the two: there
    is no state to go back to any more, so that all else has been agreed on before.

    From before the vote until its part is installed, or the vote has refused the switch, a rank is
    undecided: whatever ends it between the two, out of memory too, leaves no rank that would train
    on in the former world beside others in the next.

    What a rank has of a version that nobody goes on with is let go of behind the vote, and before
    ``stream``, which may need its memory.

    Raises:
        an error of the vote: no rank installs. Where this rank could not learn how the vote ended,
        nobody knows that, and it stays undecided: see :class:`Present`. So it does with an error
        of ``stream``, unless the state may come from elsewhere: then this rank is in the new world
        without one.
    """
    target = str(standing.blueprint.called.layout)
    present.undecided = _VOTES
    with ExitStack() as noted:
        if stream is not None and (rescue := vote.rescue) is not None:
            rescue.note()
            noted.callback(rescue.let_go)
        _cast(vote, present, target)
        if stream is not None:
            present.undecided = _STREAMS
            _end_unused(adapter, present, target)
            _streamed(adapter, vote, present, standing, stream)
    present.undecided = _INSTALLS
    _install(adapter, present, standing)
    _end_unused(adapter, present, target)


def _cast(vote: Vote, present: Present, target: str) -> None:
    try:
        vote.cast(target, present.epoch)
    except Error as error:
        present.undecided = described(error) if ends_job(error) else ""
        raise
    except BaseException as error:
        present.undecided = described(error) if vote.may_count() else ""
        raise


def _streamed(
    adapter: Adapter[Any], vote: Vote, present: Present, standing: Standing, stream: Stream
) -> None:
    """Moves the bytes; where that fails and the state may come from elsewhere, stands without."""
    try:
        stream.stream()
    except LostStateError as lost:
        if vote.rescue is not None:
            if not lost.is_doubtful:
                vote.rescue.keep(stream.remains)
            _install(adapter, present, standing, stands=False)
        raise


def _install(
    adapter: Adapter[Any], present: Present, standing: Standing, *, stands: bool = True
) -> None:
    """Takes the target's place, and lets go of the former one; without a state if none stands."""
    called, former, place = standing.blueprint.called, present.state, present.world
    target, made = str(called.layout), standing.target
    if stands:
        present.install(called.seats, called.world, made.state)
    else:
        present.install(called.seats, None, None)
    present.epoch += 1
    present.undecided = ""
    _let_go("the former state", lambda: adapter.retire(former, made.inventory, target))
    if place is not None:
        _let_go("the former world", lambda: place.retire(f"the switch to {target} replaced"))
    if not stands:
        _let_go("its target", lambda: adapter.retire(made.state, None, target))
        if (world := called.world) is not None:
            _let_go("its groups", lambda: world.abort(f"the switch to {target} has failed"))
            _let_go("its world", lambda: world.retire(f"the failed switch to {target} had made"))


def _end_unused(adapter: Adapter[Any], present: Present, target: str) -> None:
    unused, present.unused = present.unused, None
    if unused is None:
        return
    _let_go("a state of another version", lambda: adapter.retire(unused.state, None, target))
    if (world := unused.world) is not None:
        _let_go("the world of that", lambda: world.retire(f"the switch to {target} replaced"))


def _let_go(what: str, end: Callable[[], None]) -> None:
    """Ends what a switch has replaced; what fails here holds memory or groups, and nothing else."""
    try:
        end()
    except Exception as error:  # noqa: BLE001 - it is decided
        _log.warning("behind a vote, %s could not be let go of: %s", what, error)
