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

import struct
from collections.abc import Callable, Collection
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

from dynatrain._errors import InternalError, TransportError

_T = TypeVar("_T", bound=type)
_COUNT, _FLOAT = struct.Struct("<I"), struct.Struct("<d")
_SINGLES = {b"N": None, b"T": True, b"F": False}
_COLLECTIONS: dict[bytes, Callable[[list[Any]], Any]] = {
    b"t": tuple,
    b"l": lambda items: items,
    b"s": frozenset,
    b"d": dict,
}
_CONTENTS: dict[bytes, Callable[[bytes], Any]] = {
    b"I": lambda content: int.from_bytes(content, "little", signed=True),
    b"S": lambda content: content.decode("utf-8", "surrogatepass"),
    b"B": bytes,
}
_MOST_NESTED = 32
_records: dict[str, type] = {}


def record(kind: _T) -> _T:
    """Lets values of a dataclass be told; by its name, which must be the only one of its kind."""
    assert kind.__name__ not in _records
    _records[kind.__name__] = kind
    return kind


def encode(value: object) -> bytes:
    """The bytes of a value; raises InternalError for what no word is for."""
    out: list[bytes] = []
    _write(value, out)
    return b"".join(out)


def _write(value: Any, out: list[bytes]) -> None:
    kind = type(value)
    write = _WRITERS.get(kind)
    if write is not None:
        write(value, out)
    elif _records.get(kind.__name__) is kind:
        out.append(b"R")
        _text(kind.__name__, out)
        _items(b"t", [getattr(value, each.name) for each in fields(kind)], out)
    else:
        raise InternalError(
            f"session: ranks cannot tell each other a {kind.__name__}\n"
            "  expected plain values and registered records\n"
            "  nothing was moved; please report this"
        )


def _counted(letter: bytes, content: bytes, out: list[bytes]) -> None:
    out += (letter, _COUNT.pack(len(content)), content)


def _items(letter: bytes, items: Collection[Any], out: list[bytes]) -> None:
    out += (letter, _COUNT.pack(len(items)))
    for item in items:
        _write(item, out)


def _pairs(pairs: dict[Any, Any], out: list[bytes]) -> None:
    out += (b"d", _COUNT.pack(len(pairs)))
    for pair in pairs.items():
        _items(b"t", pair, out)


def _set(items: frozenset[Any], out: list[bytes]) -> None:
    out += (b"s", _COUNT.pack(len(items)))
    out += sorted(encode(item) for item in items)


def _whole(value: int, out: list[bytes]) -> None:
    size = value.bit_length() // 8 + 1
    _counted(b"I", value.to_bytes(size, "little", signed=True), out)


def _range(value: range, out: list[bytes]) -> None:
    out.append(b"r")
    _items(b"t", (value.start, value.stop, value.step), out)


def _text(value: str, out: list[bytes]) -> None:
    _counted(b"S", value.encode("utf-8", "surrogatepass"), out)


_WRITERS: dict[type, Callable[[Any, list[bytes]], None]] = {
    type(None): lambda _, out: out.append(b"N"),
    bool: lambda value, out: out.append(b"T" if value else b"F"),
    int: _whole,
    float: lambda value, out: out.append(b"D" + _FLOAT.pack(value)),
    str: _text,
    bytes: partial(_counted, b"B"),
    tuple: partial(_items, b"t"),
    list: partial(_items, b"l"),
    dict: _pairs,
    range: _range,
    frozenset: _set,
}


def decode(blob: bytes) -> Any:
    """The value that :func:`encode` was given.

    Raises:
        TransportError: the bytes are none of ours, or of another version.
    """
    try:
        reader = _Reader(blob)
        value = reader.value(0)
        reader.check_end()
        return value
    except (ValueError, TypeError, KeyError, struct.error) as error:
        raise TransportError(
            f"session: what a rank or the store has answered cannot be read: {error}\n"
            "  expected what this version of dynatrain writes\n"
            "  nothing was moved; the source state is intact\n"
            "  run the same version on every rank, and give every job a store of its own"
        ) from error


class _Reader:
    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self._at = 0

    def check_end(self) -> None:
        if self._at != len(self._blob):
            raise ValueError(f"{len(self._blob) - self._at} bytes are left over")

    def value(self, depth: int) -> Any:
        if depth > _MOST_NESTED:
            raise ValueError(f"values are nested more than {_MOST_NESTED} deep")
        letter = self._take(1)
        content = _CONTENTS.get(letter)
        if content is not None:
            return content(self._take(self._count()))
        collection = _COLLECTIONS.get(letter)
        if collection is not None:
            count = self._count()
            if count > len(self._blob) - self._at:  # an item takes a byte at least
                left = len(self._blob) - self._at
                raise ValueError(f"{count} items were announced in {left} bytes")
            return collection([self.value(depth + 1) for _ in range(count)])
        if letter in _SINGLES:
            return _SINGLES[letter]
        if letter == b"D":
            return _FLOAT.unpack(self._take(_FLOAT.size))[0]
        if letter == b"R":
            return self._record(depth)
        if letter == b"r":
            return range(*self.value(depth + 1))
        raise ValueError(f"no value begins with {letter!r}")

    def _record(self, depth: int) -> Any:
        name, given = self.value(depth + 1), self.value(depth + 1)
        kind = _records[name]
        if type(given) is not tuple or len(given) != len(fields(kind)):
            raise ValueError(f"a {name} has {len(fields(kind))} fields")
        return kind(*given)

    def _take(self, size: int) -> bytes:
        begin, end = self._at, self._at + size
        if end > len(self._blob):
            there = len(self._blob) - begin
            raise ValueError(f"{size} bytes were announced and {there} are there")
        self._at = end
        return self._blob[begin:end]

    def _count(self) -> int:
        count: int = _COUNT.unpack(self._take(_COUNT.size))[0]
        return count
