"""What callers hand over, read without trust: an object may raise whatever it is asked.

What comes back is of Python's own classes, so that it can be compared, sent and shown.
"""

from __future__ import annotations

import operator

_MAX_SHOWN = 100
_MAX_SAID = 8000


def whole(value: object) -> int | None:
    """The whole number that ``value`` is, in whichever class; None for all else, bools too."""
    try:
        if isinstance(value, bool):
            return None
        return int.__index__(operator.index(value))  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - an object of the caller's
        return None


def number(value: object) -> float | None:
    """The number that ``value`` is; None for all else, bools too."""
    try:
        return float.__float__(value) if isinstance(value, float) else whole(value)
    except Exception:  # noqa: BLE001 - an object of the caller's
        return None


def text(value: object) -> str | None:
    """The string that ``value`` is, if it can be sent; a lone surrogate cannot."""
    try:
        if not isinstance(value, str):
            return None
        found = str.__str__(value)
        found.encode()
    except Exception:  # noqa: BLE001 - an object of the caller's
        return None
    return found


def shown(value: object) -> str:
    """``repr(value)``, cut and fit to be printed, or words for it where it has none."""
    try:
        found = str.__str__(repr(value)).encode(errors="backslashreplace").decode()
    except Exception:  # noqa: BLE001 - an object of the caller's that cannot even be shown
        return f"a {kind(value)}"
    return found if len(found) <= _MAX_SHOWN else f"{found[:_MAX_SHOWN]}..."


def said(error: BaseException) -> str:
    """``str(error)``, cut and fit to be printed and sent, or words for it where it has none."""
    try:
        found = str.__str__(str(error)).encode(errors="backslashreplace").decode()
    except Exception:  # noqa: BLE001 - an error of the caller's that cannot even be shown
        return f"(this {kind(error)} has no text)"
    return found if len(found) <= _MAX_SAID else f"{found[:_MAX_SAID]}..."


def described(error: BaseException) -> str:
    """The kind of an error and what it says."""
    return f"{kind(error)}: {said(error)}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its kind where it says nothing."""
    return (said(error) or kind(error)).splitlines()[0]


def kind(value: object) -> str:
    """The name of the class of ``value``."""
    return str(type.__dict__["__name__"].__get__(type(value)))  # past what a metaclass says
