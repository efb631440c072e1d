"""The bytes of a prepared switch, and the values beside them, into the target."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from dynatrain import _native
from dynatrain._errors import Error, LayoutError, TransportError, of_family
from dynatrain.adapters.port import Published, Values
from dynatrain.generation.control import attempt
from dynatrain.generation.engine import Engine
from dynatrain.interruptions import signals_held_off
from dynatrain.profiling import native_ranges, profiler_range
from dynatrain.report import Span
from dynatrain.switch.clock import Clock
from dynatrain.switch.fingerprints import Share, fingerprint_text, together_if_asked
from dynatrain.switch.standing import Standing
from dynatrain.switch.values import Handed, publish_values, read_values, taken_by_any

#: Asks for the state of kept objects, by name.
Kept = Callable[[], Mapping[str, object]]
#: When a lane began, in seconds after the first one, and what it says of its run.
_Runs = list[tuple[float, _native.RunResult]]
#: What of the values a rank's target takes, and its share of the target's fingerprint.
_Arrival = tuple[int, Share | None]


@dataclass(frozen=True)
class Moved:
    """What a transfer says of itself on one rank.

    Attributes:
        seconds: from the first lane's begin to the last one's end.
        staging_peak_bytes: of all lanes together.
        spans: of the lanes' stages.
        published: what the source published.
        shares: of all ranks in the fingerprints of source and target; None when the session asks
            for none.
    """

    seconds: float
    staging_peak_bytes: int
    spans: list[Span]
    published: Published
    shares: tuple[Share, Share] | None

    @property
    def fingerprint(self) -> str | None:
        """Of source and target, which are equal; None when the session asks for none."""
        return None if self.shares is None else fingerprint_text(self.shares[0])


def move(engine: Engine, standing: Standing, kept: Kept, clock: Clock, after: ExitStack) -> Moved:
    """Moves the state into the target; the source is only read. Collective.

    What ``kept()`` returns is published beside the state, for ranks that join. The ranks agree
    twice: on what was read, and on what has arrived and is taken. A rank whose target refuses
    values moves its bytes all the same, as its peers wait for them, and says so with the arrival.
    From that on signals wait until ``after`` is closed: the others go on to the vote with its
    answer, and would wait there for a rank that a handler has taken out of the call.

    Raises:
        LayoutError: a target does not take what is no tensor; the source is intact.
        TransportError: a peer failed and the union communicator is gone, or what has arrived has
            another fingerprint; the source is intact.
    """
    moved = _moved(engine, standing, kept, clock, after)
    if moved.shares is not None:
        _check_same(*moved.shares)
    return moved


def _check_same(before: Share, after: Share) -> None:
    """Refuses a target that is not the source's state; all ranks have the same shares."""
    if before == after:
        return
    parts = ("the elements of its tensors", "values beside them, such as those of extras")
    differing = [
        part for part, one, other in zip(parts, before, after, strict=True) if one != other
    ]
    raise TransportError(
        "session: what has arrived is not the state that was to be moved: "
        f"{' and '.join(differing)} differ\n"
        f"  expected the source's fingerprint {fingerprint_text(before)}, the target has "
        f"{fingerprint_text(after)}\n"
        "  nothing was switched; the source state is intact and training may go on\n"
        "  an extra must hand over by state_dict() what load_state_dict() was given; if all do, "
        "check the memory of the hosts and report this as a bug"
    )


def _moved(engine: Engine, standing: Standing, kept: Kept, clock: Clock, after: ExitStack) -> Moved:
    """Moves the state; fingerprints are told with what the ranks tell each other anyway."""
    counted = standing.blueprint.counted

    def share(values: Values) -> Share:
        assert counted is not None
        with clock.phase("fingerprint"):
            return counted[0].share(engine, standing.source, values.shared)

    with clock.phase("values"):
        seats = standing.blueprint.called.source
        handed = publish_values(engine, standing.source, seats, kept, share if counted else None)
        read, refusal = attempt(lambda: _checked(engine, standing, handed))
    begin = clock.now()
    runs: _Runs = []

    def arrive() -> _Arrival:
        failed = "this rank failed while the state was moving"
        with profiler_range("dynatrain::transfer"), engine.lanes_end_with_an_error(failed):
            runs.extend(_run(engine, standing))
        if read is None:
            assert refusal is not None
            raise of_family(refusal, "comparing the values") from refusal
        return read[1], _taken(engine, standing, read[0], clock)

    arrival, error = attempt(arrive)
    after.enter_context(signals_held_off())
    taken, arrived = _agreed(engine, arrival, error, clock)
    assert read is not None  # else all ranks have raised
    published = read[0]
    engine.adapter.check_left(published, taken)  # the same outcome on every rank
    return Moved(
        max(start + result.seconds for start, result in runs),
        sum(result.staging_peak_bytes for _, result in runs),
        _spans(engine.rank, runs, begin),
        published,
        None if handed.share is None or arrived is None else (handed.share, arrived),
    )


def _agreed(
    engine: Engine, arrival: _Arrival | None, error: Exception | None, clock: Clock
) -> _Arrival:
    try:
        with clock.phase("arrival"):
            return engine.control.agree("moving the state", error, arrival, _all_arrived)
    except LayoutError:
        raise  # a refusal: the lanes of all have come to their end, or have said that they did not
    except Exception:
        engine.generation.disconnect("a rank failed while the state was moving")
        raise


def _all_arrived(answers: Sequence[_Arrival]) -> _Arrival:
    """What some rank takes, and the shares of all."""
    return taken_by_any(taken for taken, _ in answers), together_if_asked(
        share for _, share in answers
    )


def _checked(engine: Engine, standing: Standing, handed: Handed) -> tuple[Published, int]:
    """What was published, and which of it this rank's target takes."""
    called = standing.blueprint.called
    published = replace(
        read_values(engine, handed), source=called.source.layout, target=called.layout
    )
    return published, engine.adapter.check_values(standing.target.inventory, published, engine.rank)


def _taken(engine: Engine, standing: Standing, published: Published, clock: Clock) -> Share | None:
    """Hands the target its values; returns its share of the fingerprint, if one is asked for."""
    with standing.blueprint.called.entered():
        with clock.phase("values"):
            _hand_over(engine, standing, published)
        counted = standing.blueprint.counted
        if counted is None:
            return None
        with clock.phase("fingerprint"):  # read as a script will find it
            found = engine.read(standing.target.state, None, standing.blueprint.apart)
            return counted[1].share(engine, found)


def _run(engine: Engine, standing: Standing) -> _Runs:
    """Runs the lanes one after the other."""
    runs = []
    begin = time.perf_counter()
    after = engine.after_training()
    for route in standing.routes:
        assert route.run is not None  # a standing target has one for every lane
        start = time.perf_counter() - begin
        result = engine.lanes[route.moves.lane].executor.run(
            route.run, engine.options.timeout.total_seconds(), after=after, ranges=native_ranges()
        )
        runs.append((start, result))
    return runs


def _hand_over(engine: Engine, standing: Standing, published: Published) -> None:
    if standing.target.inventory is None:
        return
    try:
        engine.adapter.take_values(standing.target.inventory, published)
    except Error:
        raise
    except Exception as error:  # it is no trouble of the move, and is told apart
        raise of_family(error, "handing over") from error


def _spans(rank: int, runs: _Runs, begin: float) -> list[Span]:
    return [
        Span(rank, phase, stage, begin + start + first, begin + start + last, size, stream)
        for start, result in runs
        for phase, stage, stream, first, last, size in result.spans
    ]
