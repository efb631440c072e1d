"""What ranks tell each other comes back as it was told, and nothing else is ever read."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynatrain import InternalError, TransportError, words
from dynatrain.generation.control import Trouble

PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.frozensets(PLAIN)
        | st.dictionaries(PLAIN, inner)
        | st.builds(range, st.integers(), st.integers(), st.integers(min_value=1))
    ),
    max_leaves=20,
)


@given(VALUES)
def test_a_value_comes_back_with_its_classes(value):
    back = words.decode(words.encode(value))

    assert back == value
    assert words.encode(back) == words.encode(value)


# The sizes at which a number takes one more byte, or another way through the codec.
@pytest.mark.parametrize("bits", [0, 7, 8, 15, 31, 62, 63, 64, 65, 200])
@pytest.mark.parametrize("by", [-1, 0, 1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_whole_numbers_of_any_size_come_back(bits, by, sign):
    number = sign * (2**bits + by)

    told = words.encode(number)

    assert words.decode(told) == number
    assert told[5:] == number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)


# A walk without an end would end the process: the codec's frames are the C stack's.
def test_a_value_that_holds_itself_is_no_message():
    value: list[object] = []
    value.append(value)

    with pytest.raises(RecursionError):
        words.encode(value)


# A set has no order of its own: two ranks that tell the same one would seem to differ.
def test_equal_sets_have_equal_bytes():
    numbers = [f"name {number}" for number in range(50)]

    assert words.encode(frozenset(numbers)) == words.encode(frozenset(reversed(numbers)))


@given(VALUES, st.data())
def test_bytes_that_are_cut_short_are_refused(value, data):
    whole = words.encode(value)
    size = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(TransportError, match="cannot be read"):
        words.decode(whole[:size])


# Bytes of a peer's own making may say nothing, or a plain value; they must not end this process.
@given(st.binary(max_size=200))
def test_any_bytes_are_a_plain_value_or_refused(blob):
    try:
        value = words.decode(blob)
    except TransportError:
        return
    words.encode(value)


class Runs:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a peer')",))


@pytest.mark.parametrize(
    "blob",
    [
        pickle.dumps(Runs()),
        b"l\xff\xff\xff\xff" + b"N" * 100,
        b"t\x01\x00\x00\x00" * 10_000,
        words.encode(1) + b"N",
        b"R" + words.encode("os.system") + words.encode(("true",)),
        b"R" + words.encode("Trouble") + words.encode(("one field",)),
        b"s\x01\x00\x00\x00" + words.encode([]),
        b"r" + words.encode((0, 1, 0)),
        b"r" + words.encode("0"),
        b"r" + words.encode([0, 1, 1]),
        b"d\x01\x00\x00\x00" + words.encode(b"kv"),
    ],
    ids=[
        "pickle",
        "count",
        "depth",
        "rest",
        "unknown record",
        "other fields",
        "unhashable",
        "range without step",
        "range of text",
        "range of a list",
        "pair of bytes",
    ],
)
def test_what_this_version_does_not_write_is_refused(blob):
    with pytest.raises(TransportError, match="run the same version on every rank"):
        words.decode(blob)


def test_records_come_back_as_what_they_are():
    told = ("here", Trouble("no room", "BudgetError", (5, 3)))

    text, trouble = words.decode(words.encode(told))

    assert (text, trouble) == told
    assert (trouble.example.required_bytes, trouble.example.budget_bytes) == (5, 3)


@dataclass
class Unknown:
    field: int = 0


@pytest.mark.parametrize("value", [Unknown(), {1, 2}, object(), [Unknown()], 1j])
def test_what_has_no_word_is_no_message(value):
    with pytest.raises(InternalError, match="cannot tell each other"):
        words.encode(value)
