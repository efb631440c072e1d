"""A long answer of a coordinator as several lines, none of them longer than lines may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dynatrain._errors import TransportError
from dynatrain.elastic.seal import MAX_LINE_BYTES, SEALED_BYTES

#: Of an answer: the status of some fifty thousand members.
MAX_ANSWER_BYTES = 8 << 20
#: What stands before each line: more follow, or it is the last one.
_MORE, _LAST = "+", "."
_MOST = MAX_LINE_BYTES - SEALED_BYTES - len(_MORE)


def in_lines(answer: str) -> Iterator[str]:
    """The lines of an answer, which is ASCII and has no end of line in it."""
    begins = range(0, max(len(answer), 1), _MOST)
    for begin in begins:
        mark = _MORE if begin < begins[-1] else _LAST
        yield mark + answer[begin : begin + _MOST]


def of_lines(next_line: Callable[[], str | None]) -> str | None:
    """The answer whose lines ``next_line`` gives one at a time; None where one does not come.

    Lines are sealed with their numbers, so that one that is lost, doubled or moved is refused
    before it comes here.

    Raises:
        TransportError: it is longer than answers are, or a line is of no answer.
    """
    parts, size = [], 0
    while (line := next_line()) is not None:
        mark, part = line[:1], line[1:]
        parts.append(part)
        size += len(part)
        if mark not in (_MORE, _LAST) or size > MAX_ANSWER_BYTES:
            raise _refused(f"{size} bytes, the last ones {line[:40]!r}")
        if mark == _LAST:
            return "".join(parts)
    return None


def _refused(what: str) -> TransportError:
    return TransportError(
        f"elastic: the coordinator has answered {what}\n"
        f"  expected lines that begin with {_MORE!r}, a last one with {_LAST!r}, and "
        f"{MAX_ANSWER_BYTES} bytes at most\n"
        "  nothing was changed by this process\n"
        "  run the same version of dynatrain everywhere",
        retryable=False,
    )
