"""Where the time of a switch goes, on one rank."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from dynatrain.profiling import profiler_range
from dynatrain.report import Span


class Clock:
    """Collects the spans of one rank, in seconds since it was made."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._start = time.perf_counter()
        self.spans: list[Span] = []
        self._running: str | None = None
        self._since = 0.0

    def now(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._start

    def adopt(self, spans: Sequence[Span], by: float) -> None:
        """Takes over the spans of a clock that was made ``by`` seconds after this one."""
        self.spans += [
            replace(span, begin_seconds=span.begin_seconds + by, end_seconds=span.end_seconds + by)
            for span in spans
        ]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A span of this clock and a range of every profiler, unless its body raises.

        One within another interrupts it, so that no two spans of a clock overlap.
        """
        around = self._running
        if around is not None:
            self._end(around)
        self._running, self._since = name, self.now()
        try:
            with profiler_range(f"dynatrain::{name}"):
                yield
            self._end(name)
        finally:
            self._running, self._since = around, self.now()

    def _end(self, name: str) -> None:
        self.spans.append(Span(self._rank, name, 0, self._since, self.now()))

    def seconds(self, phase: str) -> float:
        """How long all spans of a phase took."""
        return sum(s.end_seconds - s.begin_seconds for s in self.spans if s.phase == phase)
