"""The bytes of a prepared switch, and the values beside them, into the target."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from dynatrain import _native
from dynatrain._errors import Error, LayoutError, LostStateError, TransportError, of_family
from dynatrain.adapters.port import Published, Values
from dynatrain.generation.control import attempt
from dynatrain.generation.engine import Engine
from dynatrain.given import first_line
from dynatrain.interruptions import signals_held_off
from dynatrain.profiling import native_ranges, profiler_range
from dynatrain.report import Span
from dynatrain.switch.clock import Clock
from dynatrain.switch.fingerprints import Share, fingerprint_text, together_if_asked
from dynatrain.switch.questions import check_replicas
from dynatrain.switch.remains import Remains, remains_of
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


class Transfer:
    """The bytes of one switch on their way; each method is collective, and used once.

    Either ``read`` and ``move``, where the source is only read; or ``read`` and ``agree``, and
    ``stream`` once it was voted that there is no way back: then the source is freed meanwhile.

    Args:
        engine: of the job.
        standing: the target, and the runs.
        clock: of the switch.
        recovers: whether a state that is lost in ``stream`` may come from elsewhere.

    Raises:
        LayoutError: a target does not take what is no tensor; the source is intact.
        TransportError: a peer failed and the union communicator is gone, or what has arrived has
            another fingerprint; the source is intact, but where it was freed.
    """

    def __init__(
        self, engine: Engine, standing: Standing, clock: Clock, *, recovers: bool = False
    ) -> None:
        self._engine = engine
        self._recovers = recovers
        self._standing = standing
        self._clock = clock
        self._runs: _Runs = []
        self._begin = 0.0
        self._read: tuple[Published, int] | None = None
        self._refusal: Exception | None = None
        self._handed: Handed | None = None
        self._moved: Moved | None = None
        self._controls = [_native.RunControl() for _ in standing.routes]

    @property
    def moved(self) -> Moved:
        """What the transfer says of itself, once it has ended."""
        assert self._moved is not None
        return self._moved

    def read(self, kept: Kept) -> None:
        """Publishes the values beside the state, and what ``kept()`` returns for ranks that join.

        A rank whose target refuses values says so with what follows.
        """
        engine, standing = self._engine, self._standing
        counted = standing.blueprint.counted

        def share(values: Values) -> Share:
            assert counted is not None
            with self._clock.phase("fingerprint"):
                return counted[0].share(engine, standing.source, values.shared)

        with self._clock.phase("values"):
            seats = standing.blueprint.called.source
            handed = publish_values(
                engine, standing.source, seats, kept, share if counted else None
            )
            self._handed = handed
            self._read, self._refusal = attempt(lambda: _checked(engine, standing, handed))

    def agree(self, after: ExitStack) -> None:
        """Learns whether all targets take the values; nothing moves. Signals wait from then on."""
        _, error = attempt(self._checked_values)
        after.enter_context(signals_held_off())
        taken, tied = self._engine.control.agree(
            "comparing the values", error, (self._checked_taken(), self._tied()), _all_taken
        )
        assert self._read is not None  # else all ranks have raised
        self._engine.adapter.check_left(self._read[0], taken)  # the same outcome on every rank
        if tied:
            self._check_tied(tied)

    def _tied(self) -> frozenset[tuple[str, str]]:
        """What this rank's target ties and the source has copies of, as pairs of names."""
        target = self._standing.target.inventory
        pairs = {} if target is None else target.tied
        return frozenset((first, name) for name, first in pairs.items())

    def _check_tied(self, pairs: Collection[tuple[str, str]]) -> None:
        """Holds copies of the source against each other, while it is there. Two exchanges.

        And owners of each: what arrives of a copy may be of any of them.
        """
        engine, source = self._engine, self._standing.source
        names = sorted({name for pair in pairs for name in pair})
        check_replicas(engine, self._standing.blueprint.source_map, source, names)
        sums = engine.joined(
            "comparing tied tensors",
            lambda: engine.content_shares(self._standing.blueprint.source_map, source.table, names),
            lambda shares: [sum(of_one) % 2**64 for of_one in zip(*shares, strict=True)],
        )
        by_name = dict(zip(names, sums, strict=True))
        engine.adapter.check_tied(
            [pair for pair in sorted(pairs) if by_name[pair[0]] != by_name[pair[1]]]
        )

    def move(self, after: ExitStack) -> None:
        """Moves the state into the target; the source is only read.

        A rank whose target refuses values moves its bytes all the same, as its peers wait for them.
        From the exchange on signals wait until ``after`` is closed: the others go on to the vote
        with its answer, and would wait there for a rank that a handler has taken out of the call.
        """
        arrival, error = attempt(self._arrive)
        after.enter_context(signals_held_off())
        taken, arrived = _agreed(self._engine, arrival, error, self._clock)
        assert self._read is not None  # else all ranks have raised
        self._engine.adapter.check_left(self._read[0], taken)  # the same outcome on every rank
        self._end(arrived)

    def stream(self) -> None:
        """Moves the state, and frees it meanwhile; what fails leaves it in parts.

        Raises:
            LostStateError: says what this rank holds.
        """
        arrival, error = attempt(self._arrive)
        has_arrived = False
        try:
            _, arrived = _agreed(self._engine, arrival, error, self._clock)
            has_arrived = True  # and is held against what was sent now
            self._end(arrived)
        except Exception as failed:  # noqa: BLE001 - there is no way back, whatever it is
            # Not from it: it tells of a switch that can be given up.
            raise self._in_parts(failed, is_doubtful=has_arrived) from failed.__cause__

    def remains(self) -> Remains:
        """What has landed of the target where the stream has failed."""
        return remains_of(self._engine, self._standing, self._controls)

    def _in_parts(self, error: Exception, *, is_doubtful: bool) -> LostStateError:
        lanes = zip(self._standing.routes, self._controls, strict=True)
        held = "; ".join(
            f"{route.moves.lane} memory: of {route.schedule.num_stages} stages "
            f"{control.landed_stages} have landed here and {control.freed_stages} on all ranks, "
            "which free what only these have read"
            for route, control in lanes
        )
        then = (
            "no way leads back: the state comes from what members can keep of these parts in host "
            "memory, or from a snapshot or a checkpoint"
            if self._recovers and not is_doubtful
            else "no way leads back, and what has arrived is of no use: the state comes from a "
            "snapshot or a checkpoint"
            if self._recovers
            else "no way leads back, and no rank may train on: end the job, and start it from its "
            "last checkpoint"
        )
        return LostStateError(
            "session: the switch was decided, and failed before the new state stood: "
            f"{first_line(error)}\n"
            f"  this rank has its parts of source and target: {held}\n"
            "  expected all ranks to live until the state has arrived: mode='stream' frees the "
            f"source meanwhile\n  {then}",
            is_doubtful=is_doubtful,
        )

    def _checked_values(self) -> tuple[Published, int]:
        if self._read is None:
            assert self._refusal is not None
            raise of_family(self._refusal, "comparing the values")
        return self._read

    def _checked_taken(self) -> int:
        return 0 if self._read is None else self._read[1]

    def _arrive(self) -> _Arrival:
        failed = "this rank failed while the state was moving"
        self._begin = self._clock.now()
        with (
            profiler_range("dynatrain::transfer"),
            self._engine.lanes_end_with_an_error(failed),
        ):
            self._runs.extend(_run(self._engine, self._standing, self._controls))
        published, taken = self._checked_values()
        return taken, _taken(self._engine, self._standing, published, self._clock)

    def _end(self, arrived: Share | None) -> None:
        assert self._read is not None
        assert self._handed is not None
        before = self._handed.share
        shares = None if before is None or arrived is None else (before, arrived)
        self._moved = Moved(
            max(start + result.seconds for start, result in self._runs),
            _staging(self._standing, self._runs),
            _spans(self._engine.rank, self._runs, self._begin),
            self._read[0],
            shares,
        )
        if shares is not None:
            _check_same(*shares)


def _staging(standing: Standing, runs: _Runs) -> int:
    """Of all lanes; runs of one lane share theirs."""
    by_lane: dict[str, int] = {}
    for route, (_, result) in zip(standing.routes, runs, strict=True):
        lane = route.moves.lane
        by_lane[lane] = max(by_lane.get(lane, 0), result.staging_peak_bytes)
    return sum(by_lane.values())


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
        "  an extra must hand over by state_dict() what load_state_dict() was given, and replicas "
        "must hold the same before (verify=('replicas',) finds which do not); if all do, check the "
        "memory of the hosts and report this as a bug"
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


def _all_taken(
    answers: Sequence[tuple[int, frozenset[tuple[str, str]]]],
) -> tuple[int, frozenset[tuple[str, str]]]:
    """What some rank takes, and what some rank ties."""
    tied = frozenset[tuple[str, str]]().union(*(pairs for _, pairs in answers))
    return taken_by_any(taken for taken, _ in answers), tied


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


def _run(engine: Engine, standing: Standing, controls: Sequence[_native.RunControl]) -> _Runs:
    """Runs the lanes one after the other."""
    runs = []
    begin = time.perf_counter()
    after = engine.after_training()
    for route, control in zip(standing.routes, controls, strict=True):
        assert route.run is not None  # a standing target has one for every lane
        start = time.perf_counter() - begin
        result = engine.lanes[route.moves.lane].executor.run(
            route.run,
            engine.options.timeout.total_seconds(),
            after=after,
            ranges=native_ranges(),
            control=control,
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
