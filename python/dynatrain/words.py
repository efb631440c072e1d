"""What ranks tell each other in small exchanges, as bytes that only say values.

Nothing that is read here runs code, and lengths are held against what is there: what another
version of the library, or a stale key, has written is refused.

A value is a letter and what belongs to it, integers little-endian:

    N T F          None, True, False
    I n bytes      an integer, two's complement; n is a u32, as every count
    D f64          a float
    S n utf-8      a string; lone surrogates are kept
    B n bytes      bytes
    t l s n items  a tuple, a list, a frozenset (its items sorted as bytes)
    d n pairs      a dict, by tuples of key and value
    r tuple        a range: its begin, end and step
    R name tuple   a record: its registered name and its fields in order
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from dynatrain import _native
from dynatrain._errors import InternalError, TransportError

_T = TypeVar("_T", bound=type)
_words = _native.Words()
_names: set[str] = set()


def record(kind: _T) -> _T:
    """Lets values of a dataclass be told; by its name, which must be the only one of its kind."""
    assert kind.__name__ not in _names
    _names.add(kind.__name__)
    _words.add(kind, kind.__name__, tuple(each.name for each in fields(kind)))
    return kind


def encode(value: object) -> bytes:
    """The bytes of a value; raises InternalError for what no word is for."""
    try:
        return _words.encode(value)
    except TypeError as error:
        raise InternalError(
            f"session: ranks cannot tell each other a {error}\n"
            "  expected plain values and registered records\n"
            "  nothing was moved; please report this"
        ) from error


def decode(blob: bytes) -> Any:
    """The value that :func:`encode` was given.

    Raises:
        TransportError: the bytes are none of ours, or of another version.
    """
    try:
        return _words.decode(blob)
    except (ValueError, TypeError, KeyError) as error:
        raise TransportError(
            f"session: what a rank or the store has answered cannot be read: {error}\n"
            "  expected what this version of dynatrain writes\n"
            "  nothing was moved; the source state is intact\n"
            "  run the same version on every rank, and give every job a store of its own"
        ) from error
