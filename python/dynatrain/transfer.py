"""The bytes of a prepared switch, and the values beside them, into the target."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dynatrain import _native
from dynatrain._errors import Error, of_family
from dynatrain.adapters.port import Published, Values
from dynatrain.engine import Clock, Engine, Share, fingerprint_of
from dynatrain.handover import check_values, publish_values
from dynatrain.profiling import native_ranges, profiler_range
from dynatrain.questions import fingerprint
from dynatrain.report import Span
from dynatrain.transition import Prepared

#: When a lane began, in seconds after the first one, and what it says of its run.
_Runs = list[tuple[float, _native.RunResult]]


@dataclass(frozen=True)
class Moved:
    """What a transfer says of itself on one rank.

    Attributes:
        seconds: from the first lane's begin to the last one's end.
        staging_peak_bytes: of all lanes together.
        spans: of the lanes' stages.
        published: what the source published.
        fingerprints: of the source and of the target; None when the session asks for none.
    """

    seconds: float
    staging_peak_bytes: int
    spans: list[Span]
    published: Published
    fingerprints: tuple[str | None, str | None]


def transfer(
    engine: Engine, prepared: Prepared, kept: Callable[[], Mapping[str, object]], clock: Clock
) -> Moved:
    """Moves the state into the target; the source is only read. Collective.

    What ``kept()`` returns is published beside the state, for ranks that join. The ranks agree
    three times: on what was read, on what the targets take, and on what has arrived.

    Raises:
        TransportError: a peer failed; the union communicator is gone, the source is intact.
    """
    asked = "fingerprint" in engine.options.verify
    source, target = prepared.source.state, prepared.target.state
    before: str | None = None
    if asked and prepared.tied:  # the maps of the switch may lack names that it counts
        before = fingerprint(engine, source, prepared.request.names)
    on_the_way = asked and not prepared.tied

    def share(values: Values) -> Share:
        return engine.share_of_fingerprint(prepared.source_map, prepared.source, values)

    handed = publish_values(engine, prepared.source, kept, share if on_the_way else None)
    published = check_values(engine, prepared.target, handed)
    begin = clock.now()
    runs: _Runs = []

    def arrive() -> Share | None:
        with profiler_range("dynatrain::transfer"):
            runs.extend(_move(engine, prepared))
        _hand_over(engine, prepared, published)
        return _arrived(engine, prepared) if on_the_way else None

    try:
        shares = engine.gathered("moving the state", arrive)
    except Exception:
        engine.disconnect("a rank failed while the state was moving")
        raise
    after: str | None = None
    if on_the_way:
        before = handed.fingerprint
        after = fingerprint_of([mine for mine in shares if mine is not None])
    elif asked:
        after = fingerprint(engine, target)
    return Moved(
        max(start + result.seconds for start, result in runs),
        sum(result.staging_peak_bytes for _, result in runs),
        _spans(engine.rank, runs, begin),
        published,
        (before, after),
    )


def _move(engine: Engine, prepared: Prepared) -> _Runs:
    """Runs the lanes one after the other."""
    runs = []
    begin = time.perf_counter()
    after = engine.after_training()
    for route in prepared.routes:
        assert route.run is not None  # prepare() made one for every lane
        start = time.perf_counter() - begin
        result = engine.lanes[route.lane].executor.run(
            route.run, engine.options.timeout.total_seconds(), after=after, ranges=native_ranges()
        )
        runs.append((start, result))
    return runs


def _hand_over(engine: Engine, prepared: Prepared, published: Published) -> None:
    if prepared.target.inventory is None:
        return
    try:
        engine.adapter.take_values(prepared.target.inventory, published)
    except Error:
        raise
    except Exception as error:  # it is no trouble of the move, and is told apart
        raise of_family(error, "handing over") from error


def _arrived(engine: Engine, prepared: Prepared) -> Share:
    """This rank's share of the target's fingerprint, read as a script will find it."""
    side = engine.read(prepared.target.state, None, prepared.apart)
    values = Values() if side.inventory is None else engine.adapter.values(side.inventory)
    return engine.share_of_fingerprint(prepared.target_map, side, values)


def _spans(rank: int, runs: _Runs, begin: float) -> list[Span]:
    return [
        Span(rank, phase, stage, begin + start + first, begin + start + last, size, stream)
        for start, result in runs
        for phase, stage, stream, first, last, size in result.spans
    ]
