"""Whatever comes over a line, lies in a file or is written on a command line: taken, or refused.

Nothing else leaves a reader than an error of the family, or ValueError where it says so.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynatrain import Error, Layout, LayoutError, TransportError
from dynatrain.elastic import trace
from dynatrain.elastic.addresses import addresses_of, text_of
from dynatrain.elastic.advice import Answer
from dynatrain.elastic.answers import in_lines, of_lines
from dynatrain.elastic.ask import ask
from dynatrain.elastic.checkpoint_folder import CheckpointFolder
from dynatrain.elastic.checkpoint_reader import Checkpoint
from dynatrain.elastic.coordinator import Coordinator, CoordinatorSettings, _Connection
from dynatrain.elastic.etcd import SCHEME, place_of
from dynatrain.elastic.line import Line
from dynatrain.elastic.seal import MEMBER, OPERATOR, POLICY, Seal, greeting, new_nonce, nonce_of
from dynatrain.elastic.secret import made_secret, read_secret
from dynatrain.elastic.sqlite_ledger import SqliteLedger

SECRET = b"of a test, long enough"
NONCES = "a" * 32, "b" * 32
#: A folder of pytest's serves all examples of a test.
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


# ---- lines -------------------------------------------------------------------------------------


@given(st.binary(max_size=120))
def test_any_greeting_is_a_nonce_or_refused(line):
    with suppress(TransportError):
        assert len(nonce_of(line)) == 32


def test_a_greeting_is_read():
    nonce = new_nonce()

    assert nonce_of(greeting(nonce) + b"\n") == nonce


@given(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])))
def test_a_sealed_line_is_opened_as_it_was(line):
    here = Seal(SECRET, NONCES, is_coordinator=True)
    there = Seal(SECRET, NONCES, is_coordinator=False)

    assert there.open(here.close(line)) == line


# What is not signed is refused whatever it is, and the line behind it is still the first one.
@given(st.binary(max_size=200))
def test_any_unsigned_line_is_refused(line):
    seal = Seal(SECRET, NONCES, is_coordinator=False)

    with pytest.raises(TransportError, match="does not carry the job's code"):
        seal.open(line)
    seal.open(Seal(SECRET, NONCES, is_coordinator=True).close("first"))


@given(st.lists(st.text(max_size=20) | st.sampled_from(["+", ".", "+a", ".b"]), max_size=6))
def test_lines_of_an_answer_are_one_or_refused(lines):
    coming = iter(lines)

    with suppress(TransportError):
        answer = of_lines(lambda: next(coming, None))
        assert answer is None or answer in "".join(lines)


class Said(Line):
    """A line on which a coordinator says one thing."""

    def __init__(self, answer: str) -> None:
        super().__init__([("127.0.0.1", 1)], SECRET)
        self._lines = in_lines(answer)

    def connect(self) -> bool:
        return True

    def hear(self, seconds: float) -> str | None:
        return next(self._lines, None)


@given(st.text() | json_values.map(json.dumps) | st.integers(0, 1 << 14).map("[".__mul__))
def test_any_answer_of_a_coordinator_is_a_dict_or_refused(answer):
    with suppress(Error):
        assert isinstance(ask(Said(answer), {"ask": "status"}), dict)


@given(
    st.text()
    | json_values.map(json.dumps)
    | st.fixed_dictionaries(
        {"question": json_values, "layout": json_values, "why": json_values}
    ).map(json.dumps)
    | st.integers(0, 1 << 14).map("[".__mul__)
)
def test_any_answer_of_a_policy_is_taken_or_a_value_error(line):
    with suppress(ValueError):
        layout, size, why = Answer.of_line(line).taken()
        assert (size > 0) == bool(layout)
        assert len(why.encode()) <= 900


# ---- what users write --------------------------------------------------------------------------


@given(st.text() | st.text(st.sampled_from("a1:,[]٣. ")))
def test_any_text_is_addresses_or_a_value_error(text):
    with suppress(ValueError):
        found = addresses_of(text)
        assert all(0 < port < 1 << 16 for _, port in found)
        assert addresses_of(",".join(text_of(each) for each in found)) == found


@given(st.text() | st.text(st.sampled_from("a1:,/.")))
def test_any_text_is_a_place_in_etcd_or_refused(text):
    with suppress(LayoutError):
        assert place_of(SCHEME + text).job


# A name that the system cannot even look up is nobody's, as is one that it does not know.
@pytest.mark.parametrize("host", ["a..b", "a" * 80, "\0", "x\udc80", ".", "%"])
def test_a_host_that_is_no_name_is_not_reached(host):
    line = Line([(host, 1)], SECRET, connect_s=0.2)

    assert not line.connect()
    assert line.why_not


# ---- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_secret, made_secret, SqliteLedger])
@pytest.mark.parametrize("path", ["a\0b", "", "x\udc80/y", "/", "a" * 300])
def test_a_path_that_is_none_is_refused(read, path):
    with pytest.raises(TransportError):
        read(path)


@in_one_folder
@given(st.binary(max_size=80))
def test_any_file_is_a_secret_or_refused(tmp_path, content):
    path = tmp_path / "secret"
    path.write_bytes(content)

    with suppress(TransportError):
        assert len(read_secret(path)) >= 16


begins = st.fixed_dictionaries(
    {"machine": st.sampled_from(["coordinator", "worker"]) | json_values},
    optional={
        "begins": st.fixed_dictionaries(
            {},
            optional={
                "layouts": json_values | st.just([["dp=1", 1]]) | st.just([["dp=1", float("inf")]]),
                "timeout_ms": json_values | st.just(60_000),
                "records": json_values | st.just([]),
                "now_ms": json_values | st.just(0),
                "id": json_values | st.just(1),
                "place": json_values | st.just(("h", "m")),
                "settings": json_values,
            },
        )
        | json_values
    },
)


@in_one_folder
@given(
    st.binary(max_size=200)
    | st.text().map(str.encode)
    | st.integers(0, 1 << 14).map(lambda n: b'{"a":' * n)
    | st.tuples(begins.map(json.dumps), st.text()).map(lambda two: "\n".join(two).encode())
)
def test_any_file_is_a_trace_or_refused(tmp_path, content):
    path = tmp_path / "trace"
    path.write_bytes(content)

    with suppress(LayoutError):
        trace.replay(path)


# Sums of times would not fit where a time is at the end of its range.
@pytest.mark.parametrize("now_ms", [1 << 62, -1, 1 << 70, 0.5, None])
@pytest.mark.parametrize("machine", ["coordinator", "worker"])
def test_a_trace_that_begins_at_no_time_is_refused(tmp_path, machine, now_ms):
    begins = {"layouts": [["dp=1", 1]], "timeout_ms": 60_000, "records": [], "now_ms": now_ms}
    if machine == "worker":
        begins = {"id": 1, "place": ("h", "m"), "timeout_ms": 60_000, "now_ms": now_ms}
    path = tmp_path / "trace"
    path.write_text(json.dumps({"machine": machine, "begins": begins}) + "\n")

    with pytest.raises(LayoutError, match="line 1 of the trace"):
        trace.replay(path)


@in_one_folder
@given(st.binary(max_size=200) | st.binary(max_size=200).map(b"SQLite format 3\0".__add__))
def test_any_file_is_a_ledger_or_refused(tmp_path, content):
    path = tmp_path / "ledger"
    for each in tmp_path.iterdir():
        each.unlink()
    path.write_bytes(content)

    with suppress(TransportError):
        ledger = SqliteLedger(path)
        assert all(isinstance(line, str) for line in ledger.lines())
        ledger.close()


@in_one_folder
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_files_are_a_checkpoint_or_refused(tmp_path, index, metadata):
    folder = tmp_path / "step-1"
    folder.mkdir(exist_ok=True)
    (folder / "dynatrain.index").write_bytes(index)
    (folder / ".metadata").write_bytes(metadata)

    with pytest.raises(LayoutError):
        Checkpoint(folder)


@in_one_folder
@given(
    st.lists(
        st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=20)
        | st.integers().map("step-{}".format),
        max_size=4,
    )
)
def test_folders_of_any_name_are_versions_or_nothing(tmp_path, names):
    folder = CheckpointFolder(Path(tmp_path))
    for name in names:
        with suppress(OSError):
            (tmp_path / name).mkdir(exist_ok=True)

    assert folder.versions == []


# ---- a coordinator -----------------------------------------------------------------------------


class Unheard:
    """A writer whose lines nobody reads."""

    def write(self, line: bytes) -> None:
        """Nothing."""


#: What both members have said before: one that is not in the ledger ends the coordinator.
JOINS = ["1 join id=1 host=a settings= machine=", "1 join id=2 host=b settings= machine="]


@pytest.fixture(scope="module")
def coordinator():
    layouts = Layout.parse("dp=2"), Layout.parse("dp=1")
    made = Coordinator(
        CoordinatorSettings("127.0.0.1", 0, layouts, 60.0, SECRET), SqliteLedger(":memory:")
    )
    for line in JOINS:
        made._hear(_Connection(Unheard(), Seal(SECRET, NONCES, is_coordinator=True)), MEMBER + line)
    yield made
    made._socket.close()


questions = st.fixed_dictionaries(
    {"ask": st.sampled_from(["status", "resize", "drain", "wish"]) | json_values},
    optional={
        "layout": st.sampled_from(["dp=2", "", "dp=9"]) | json_values,
        "epoch": json_values,
        "rank": json_values,
        "member": st.integers(0, 3) | json_values,
    },
)
answers_of_policies = st.fixed_dictionaries(
    {"question": st.text() | json_values, "layout": json_values, "why": json_values}
)
said_by_members = st.sampled_from(
    [
        *JOINS,
        "1 join id=3 host=b settings=x machine=",
        "1 report id=1 epoch=0 version=0 clean=0 snapshots=",
        "1 leave id=2 grace_ms=1000",
        "1 vote id=1 attempt=1 yes=1 why= refusal=0",
        "1 prepare-failed id=2 attempt=1 why=no uncovered=0 refusal=0",
    ]
)


# Who has the job's secret may still be of another version: a connection ends by it, and no more.
@given(
    st.lists(
        st.text()
        | said_by_members.map(MEMBER.__add__)
        | questions.map(json.dumps).map(OPERATOR.__add__)
        | json_values.map(json.dumps).map(OPERATOR.__add__)
        | answers_of_policies.map(json.dumps).map(POLICY.__add__)
        | st.integers(0, 1 << 14).map(lambda n: OPERATOR + "[" * n),
        max_size=6,
    )
)
def test_any_line_is_heard_or_its_connection_is_refused(coordinator, lines):
    seal = Seal(SECRET, NONCES, is_coordinator=True)
    connection = _Connection(Unheard(), seal)
    coordinator._hear(connection, MEMBER + JOINS[0])
    for line in lines:
        try:
            coordinator._hear(connection, line)
        except (Error, ValueError):  # what ends a connection
            break
    coordinator._forget(connection, is_told=True)

    assert coordinator._broken is None
    assert json.dumps(coordinator._answer({"ask": "status"}))


# An error of the binding would end the connection without a word about why.
@pytest.mark.parametrize("number", ["", "x", "-1", "9" * 30, "1.5"])
def test_an_answer_to_no_question_is_refused(coordinator, number):
    answer = Answer(f"{coordinator._office}.{number}").to_line()
    connection = _Connection(Unheard(), Seal(SECRET, NONCES, is_coordinator=True))
    coordinator._hear(connection, MEMBER + JOINS[0])

    with pytest.raises(ValueError, match="no question has the number"):
        coordinator._hear(connection, POLICY + answer)
