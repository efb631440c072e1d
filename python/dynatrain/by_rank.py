"""What ranks say, in few lines however many they are: those that say the same are told together.

Every rank of a large job writes such lines to its output: one for each rank would be a square.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

_T = TypeVar("_T")
#: Runs of ranks in a line, and lines, that are told; the rest is counted.
_MOST_RUNS, _MOST_LINES = 16, 16


def grouped(said: Mapping[int, _T]) -> dict[_T, list[int]]:
    """The ranks that say each thing, ascending, by the lowest of them."""
    found: dict[_T, list[int]] = {}
    for rank in sorted(said):
        found.setdefault(said[rank], []).append(rank)
    return found


def in_short(ranks: Iterable[int]) -> str:
    """Ranks in words: ``rank 7``, ``ranks 0-3, 7``."""
    runs: list[tuple[int, int]] = []
    for rank in sorted(ranks):
        if runs and runs[-1][1] == rank - 1:
            runs[-1] = runs[-1][0], rank
        else:
            runs.append((rank, rank))
    told = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs[:_MOST_RUNS])
    num_left = sum(b - a + 1 for a, b in runs[_MOST_RUNS:])
    many = "" if len(runs) == 1 and runs[0][0] == runs[0][1] else "s"
    return f"rank{many} {told}{f' and {num_left} more' if num_left else ''}"


def _as_said(text: str, _: str) -> str:
    return text


def lines(said: Mapping[int, str], retold: Callable[[str, str], str] = _as_said) -> str:
    """A line for each thing that ranks say, with who says it.

    Args:
        said: by rank.
        retold: a thing in the words of another rank, given who says it.
    """
    groups = [*grouped(said).items()]
    named = [(in_short(ranks), text) for text, ranks in groups[:_MOST_LINES]]
    told = [f"  {who}: {retold(text, who)}" for who, text in named]
    if left := groups[_MOST_LINES:]:
        others = in_short(rank for _, ranks in left for rank in ranks)
        told.append(f"  {others}: {len(left)} other things")
    return "\n".join(told)
