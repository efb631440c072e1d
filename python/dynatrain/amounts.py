"""Bytes, seconds and ranks as people are told them."""

from __future__ import annotations

from collections.abc import Sequence

_UNITS = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def unit_of(size_bytes: float) -> tuple[str, float]:
    """The largest unit that a size has one of, and its bytes."""
    rounded = size_bytes / 0.9995  # 999.5 kB are a MB of three digits
    return next(((name, unit) for unit, name in _UNITS if rounded >= unit), ("B", 1.0))


def bytes_text(size_bytes: float) -> str:
    """A size with three digits: 1.05 GB."""
    name, unit = unit_of(size_bytes)
    number = size_bytes / unit
    return f"{number:.0f} {name}" if number >= 100 or unit == 1 else f"{number:.3g} {name}"


def seconds_text(seconds: float) -> str:
    """A duration with three digits or more: 21 ms."""
    if seconds >= 99.95:
        return f"{seconds:,.0f} s"
    return f"{seconds:.3g} s" if seconds >= 0.9995 else f"{seconds * 1e3:.3g} ms"


def ranks_text(ranks: Sequence[int], most: int = 8) -> str:
    """Ranks in few words: 0-7, 16, and 12 more."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    told = [str(low) if low == high else f"{low}-{high}" for low, high in runs[:most]]
    left = sum(high - low + 1 for low, high in runs[most:])
    return ", ".join(told) + (f" and {left:,} more" if left else "")
