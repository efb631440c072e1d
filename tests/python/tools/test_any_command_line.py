"""Whatever stands on the command line: an exit status, and no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynatrain.tools.cli import main, parser
from dynatrain.tools.coordinate import settings_of

#: The sizes of a config.json, of which some are there.
SIZES = {
    "model_type": st.sampled_from(["llama", "qwen3", "mixtral", "gpt2", "deepseek_v3", 1, None]),
    "tie_word_embeddings": st.booleans() | st.none(),
    **dict.fromkeys(
        [
            "num_hidden_layers",
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "vocab_size",
            "num_local_experts",
        ],
        st.integers(-1, 9) | st.floats() | st.text(max_size=2),
    ),
}
#: Few enough ranks and layers that a plan of them takes milliseconds.
layouts = st.sampled_from(["dp=1", "dp=4", "dp=2,tp=2", "tp=3", "pp=2", "dp=4,ep=2", "pp=2,vpp=2"])
numbers = st.integers(-2, 9).map(str) | st.sampled_from(["1e3", "nan", "inf", "1099511627776", ""])
words = st.text(st.characters(exclude_characters="\0"), max_size=12) | st.sampled_from(
    [
        "plan",
        "predict",
        "status",
        "resize",
        "drain",
        "--json",
        "--layout",
        "--member",
        "-1",
        "--",
        "dp=2",
    ]
)
#: The standard streams of a test are those of all its examples.
one_output = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def status_of(arguments):
    """Of a command; one that argparse refuses ends so, too."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@one_output
@given(st.lists(words, max_size=5))
def test_any_words_are_answered_by_a_status(capsys, arguments):
    if arguments[:1] in (["coordinator"], ["doctor"]):
        return  # one serves, the other tries the machine

    assert status_of(arguments) in (0, 1, 2)


@one_output
@given(
    source=layouts | st.text(max_size=9),
    target=layouts | st.text(max_size=9),
    config=st.fixed_dictionaries({}, optional=SIZES) | st.text(max_size=3),
    given_options=st.dictionaries(
        st.sampled_from(["--link-gb-per-second", "--staging-mib", "--ranks-per-node", "--nodes"]),
        numbers,
        max_size=2,
    ),
)
def test_any_plan_is_printed_or_refused(capsys, source, target, config, given_options):
    Path("config.json").write_text(json.dumps(config))
    options = [f"{name}={value}" for name, value in given_options.items()]

    assert status_of(["plan", "--model=./config.json", *options, "--", source, target]) in (0, 1, 2)


# Whoever mistypes an address or a number would wait for a coordinator that nobody finds.
@pytest.mark.parametrize(
    "option",
    [
        "--listen=127.0.0.1:http",
        "--listen=127.0.0.1:99999",
        "--listen=127.0.0.1:-1",
        "--listen=127.0.0.1",
        "--listen=a..b:0",
        "--timeout-s=nan",
        "--timeout-s=inf",
        "--timeout-s=-1",
        "--timeout-s=1e300",
        "--layout=",
        "--layout=dp=0",
        "--ledger=",
        "--ledger=etcd://",
        "--secret-file=",
        "--secret-file=/",
        "--trace=/",
    ],
)
def test_a_coordinator_that_cannot_be_is_refused(capsys, option):
    assert status_of(["coordinator", "--layout=dp=1", option]) in (1, 2)
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("listen", "address", "port"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0),
        (":7000", "127.0.0.1", 7000),
        ("[::1]:7000", "::1", 7000),
        ("node-3:65535", "node-3", 65535),
    ],
)
def test_an_address_to_listen_on_is_read(listen, address, port):
    options = parser().parse_args(["coordinator", "--layout=dp=1", f"--listen={listen}"])

    assert (settings_of(options).address, settings_of(options).port) == (address, port)


@pytest.mark.parametrize("command", [["status"], ["resize"], ["drain", "1"]])
@pytest.mark.parametrize(
    "address", ["", ":1", "a", "a..b:1", "127.0.0.1:1", "[:1", "a:0", "\u0663:\u0663"]
)
def test_a_question_to_nobody_is_refused(capsys, tmp_path, command, address):
    secret = tmp_path / "secret"
    secret.write_text("long enough for a secret")

    status = status_of([*command, f"--coordinator={address}", f"--secret-file={secret}"])

    assert status in (1, 2)
    assert capsys.readouterr().err
